# syntax=docker/dockerfile:1
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /walferry ./cmd/walferry

# Only certificates, time zones and a user that is not root.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /walferry /walferry
ENV WALFERRY_CONFIG=/etc/walferry/walferry.yml
USER 65532:65532
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/walferry", "status", "--healthz"]
ENTRYPOINT ["/walferry"]
CMD ["run"]
