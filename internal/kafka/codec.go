package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression is the codec of a record batch, as in the low three bits of its attributes.
type Compression int8

// The codecs of Kafka.
const (
	None   Compression = 0
	Gzip   Compression = 1
	Snappy Compression = 2
	LZ4    Compression = 3
	Zstd   Compression = 4
)

var compressionNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

func (c Compression) String() string {
	if c < 0 || int(c) >= len(compressionNames) {
		return fmt.Sprintf("Compression(%d)", int8(c))
	}
	return compressionNames[c]
}

// ParseCompression reads a codec's name as Kafka's settings have it.
func ParseCompression(name string) (Compression, error) {
	for i, n := range compressionNames {
		if n == name {
			return Compression(i), nil
		}
	}
	return 0, fmt.Errorf("compression %q is none of none, gzip, snappy, lz4, zstd", name)
}

// A Compressor compresses the records of one batch after another. It is not safe for concurrent use.
type Compressor struct {
	codec Compression
	lz    lz4.Compressor
	zs    *zstd.Encoder
	gz    *gzip.Writer
	out   appendWriter
}

// NewCompressor makes a compressor of a known codec.
func NewCompressor(codec Compression) (*Compressor, error) {
	x := &Compressor{codec: codec}
	var err error
	switch codec {
	case None, LZ4, Snappy:
	case Gzip:
		x.gz, err = gzip.NewWriterLevel(io.Discard, gzip.DefaultCompression)
	case Zstd:
		// The window bounds what each reader has to keep; a batch is seldom larger. Record batches have a checksum already.
		x.zs, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	default:
		err = fmt.Errorf("unknown codec %d", codec)
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// Codec returns what it was made for.
func (x *Compressor) Codec() Compression { return x.codec }

// appendWriter is an io.Writer that appends.
type appendWriter struct{ b []byte }

func (w *appendWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

const (
	lz4Block    = 64 << 10
	snappyBlock = 32 << 10
)

// xerialHeader begins the framing of snappy-java, which Kafka's snappy is: magic, version, lowest compatible version. Blocks
// follow, each behind its length.
var xerialHeader = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}

// AppendCompressed appends the compressed form of src to dst.
func (x *Compressor) AppendCompressed(dst, src []byte) ([]byte, error) {
	switch x.codec {
	case None:
		return append(dst, src...), nil
	case Gzip:
		x.out.b = dst
		x.gz.Reset(&x.out)
		_, err := x.gz.Write(src)
		if err == nil {
			err = x.gz.Close()
		}
		dst, x.out.b = x.out.b, nil
		return dst, err
	case Zstd:
		return x.zs.EncodeAll(src, dst), nil
	case Snappy:
		dst = append(dst, xerialHeader...)
		for len(src) > 0 {
			block := src[:min(len(src), snappyBlock)]
			src = src[len(block):]
			at := len(dst)
			dst = grow(dst, 4+snappy.MaxEncodedLen(len(block)))
			n := len(snappy.Encode(dst[at+4:cap(dst)], block)) // the destination is large enough, so it is filled in place
			binary.BigEndian.PutUint32(dst[at:at+4], uint32(n))
			dst = dst[:at+4+n]
		}
		return dst, nil
	case LZ4:
		// Frame: magic, FLG (version 1, independent blocks), BD (64 KiB), and the header's checksum, which is constant for
		// these. Brokers before 4 decompress independent blocks only.
		dst = append(dst, 0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82)
		for len(src) > 0 {
			block := src[:min(len(src), lz4Block)]
			src = src[len(block):]
			at := len(dst)
			bound := lz4.CompressBlockBound(len(block))
			dst = grow(dst, 4+bound)
			n, err := x.lz.CompressBlock(block, dst[at+4:at+4+bound])
			if err != nil || n == 0 || n >= len(block) {
				// Not compressible: the high bit says that the block is stored.
				binary.LittleEndian.PutUint32(dst[at:at+4], uint32(len(block))|1<<31)
				dst = append(dst[:at+4], block...)
				continue
			}
			binary.LittleEndian.PutUint32(dst[at:at+4], uint32(n))
			dst = dst[:at+4+n]
		}
		return append(dst, 0, 0, 0, 0), nil
	}
	return nil, fmt.Errorf("unknown codec %d", x.codec)
}

// grow returns dst lengthened by n bytes of no particular content.
func grow(dst []byte, n int) []byte {
	if cap(dst)-len(dst) < n {
		bigger := make([]byte, len(dst), 2*cap(dst)+n)
		copy(bigger, dst)
		dst = bigger
	}
	return dst[:len(dst)+n]
}

// maxRecords bounds the records of one batch after decompression, so that a small answer cannot fill the memory.
const maxRecords = 512 << 20

var errTooMuch = fmt.Errorf("record batch unpacks to more than %d bytes", maxRecords)

// decompress returns src itself when it is not compressed, and otherwise a slice that the caller owns.
func decompress(codec Compression, src []byte) ([]byte, error) {
	switch codec {
	case None:
		return src, nil
	case Gzip:
		r, err := gzip.NewReader(bytes.NewReader(src))
		if err != nil {
			return nil, err
		}
		return readAll(r)
	case LZ4:
		return readAll(lz4.NewReader(bytes.NewReader(src)))
	case Zstd:
		r, err := zstd.NewReader(bytes.NewReader(src), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRecords))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return readAll(r)
	case Snappy:
		return unsnappy(src)
	}
	return nil, fmt.Errorf("unknown codec %d", codec)
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxRecords+1))
	if err == nil && len(b) > maxRecords {
		err = errTooMuch
	}
	return b, err
}

// unsnappy takes both forms: snappy-java's framing and one bare block, which librdkafka writes.
func unsnappy(src []byte) ([]byte, error) {
	if !bytes.HasPrefix(src, xerialHeader[:8]) {
		return appendUnsnappy(nil, src)
	}
	if len(src) < len(xerialHeader) {
		return nil, errors.New("snappy header is cut short")
	}
	src = src[len(xerialHeader):]
	var out []byte
	for len(src) > 0 {
		if len(src) < 4 {
			return nil, errors.New("snappy block is cut short")
		}
		n := binary.BigEndian.Uint32(src)
		src = src[4:]
		if uint64(n) > uint64(len(src)) {
			return nil, errors.New("snappy block is cut short")
		}
		var err error
		if out, err = appendUnsnappy(out, src[:n]); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return out, nil
}

func appendUnsnappy(dst, block []byte) ([]byte, error) {
	n, err := snappy.DecodedLen(block)
	if err != nil {
		return nil, err
	}
	// A block of snappy grows by 32 at the most (a copy of 64 bytes takes two).
	if n > maxRecords-len(dst) || n > 64*len(block)+64 {
		return nil, errTooMuch
	}
	b, err := snappy.Decode(nil, block)
	return append(dst, b...), err
}
