package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"walferry/sink"
)

// BenchmarkPublish appends and publishes records of 150 bytes to four partitions of a real broker, with a checkpoint in each
// transaction; one operation is one transaction. CPU is user and system of this process.
func BenchmarkPublish(b *testing.B) {
	value := []byte(strings.Repeat("the quick brown fox jumps over the lazy dog ", 4)[:150])
	for _, size := range []int{10, 1000, 20_000} {
		for _, codec := range []string{"none", "lz4", "zstd"} {
			b.Run(fmt.Sprintf("%d records/%s", size, codec), func(b *testing.B) {
				at := apache(b)
				p := at.producer(b, at.client(b, nil), sink.Config{Compression: codec})
				initialise(b, p)
				events, checkpoint := topics(b, p, at, 4)
				batch := p.NewBatch()
				key := make([]byte, 0, 16)
				var took []time.Duration
				now := time.Now()
				cpu := cpuTime(b)
				for b.Loop() {
					batch.Reset()
					for i := range size {
						key = fmt.Appendf(key[:0], "%09d", i)
						copy(value[10:], key)
						if err := batch.Append(events, int32(i&3), now, key, value, nil); err != nil {
							b.Fatal(err)
						}
					}
					if err := batch.AppendLast(checkpoint, 0, now, key, value, nil); err != nil {
						b.Fatal(err)
					}
					begin := time.Now()
					if _, err := p.Publish(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(begin))
				}
				records := float64(b.N) * float64(size)
				b.ReportMetric(records/b.Elapsed().Seconds(), "records/s")
				b.ReportMetric((cpuTime(b)-cpu).Seconds()/records*1e6, "CPU-s/M")
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			})
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
