package sink_test

import (
	"encoding/binary"
	"testing"
)

// endTxnCode reads the error code of an answer to EndTxn v3 behind its correlation id: tag buffer, throttle time, code.
func endTxnCode(answer []byte) int16 {
	if len(answer) < 7 {
		return -1
	}
	return int16(binary.BigEndian.Uint16(answer[5:]))
}

// produceCode reads the error code of an answer to Produce v8 for one partition of one topic.
func produceCode(t testing.TB, answer []byte) int16 {
	t.Helper()
	// topics int32, name, partitions int32, partition int32, code
	if len(answer) < 6 {
		t.Fatalf("an answer of %d bytes", len(answer))
	}
	at := 4 + 2 + int(binary.BigEndian.Uint16(answer[4:])) + 4 + 4
	if len(answer) < at+2 {
		t.Fatalf("an answer of %d bytes", len(answer))
	}
	return int16(binary.BigEndian.Uint16(answer[at:]))
}
