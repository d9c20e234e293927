package pipeline

import (
	"os"
	"testing"

	"walferry/internal/testbed"
)

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }
