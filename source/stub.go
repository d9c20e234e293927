package source

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pglogrepl"
	"walferry/decode"
)

var errStub = errors.New("not built yet")

type Conn struct{}

func Dial(ctx context.Context, cfg Config) (*Conn, error)                      { return nil, errStub }
func (c *Conn) System() System                                                 { return System{} }
func (c *Conn) TimelineHistory(ctx context.Context) ([]Switch, error)          { return nil, errStub }
func (c *Conn) CreateSlot(ctx context.Context) (pglogrepl.LSN, error)          { return 0, errStub }
func (c *Conn) Start(ctx context.Context, from pglogrepl.LSN) (*Stream, error) { return nil, errStub }
func (c *Conn) Close(ctx context.Context) error                                { return errStub }

// Frame is one XLogData message.
type Frame struct {
	WALStart, ServerEnd pglogrepl.LSN
	ServerTime          time.Time
	Payload             []byte
}
type Block struct{ Frames []Frame }

func (b *Block) Release() {}

type Stream struct{}

func (s *Stream) Blocks() <-chan *Block           { return nil }
func (s *Stream) Err() error                      { return errStub }
func (s *Stream) Confirm(lsn pglogrepl.LSN)       {}
func (s *Stream) ServerEnd() pglogrepl.LSN        { return 0 }
func (s *Stream) LastFrame() time.Time            { return time.Time{} }
func (s *Stream) BlockedSince() time.Time         { return time.Time{} }
func (s *Stream) Close(ctx context.Context) error { return errStub }

type Catalog struct{}

func OpenCatalog(ctx context.Context, cfg Config) (*Catalog, error) { return nil, errStub }
func (c *Catalog) Close()                                           {}
func (c *Catalog) System() System                                   { return System{} }
func (c *Catalog) Expect(s System) error                            { return errStub }
func (c *Catalog) SlotInfo(ctx context.Context) (Slot, error)       { return Slot{}, errStub }
func (c *Catalog) DropSlot(ctx context.Context) error               { return errStub }
func (c *Catalog) Describe(ctx context.Context, oid uint32) (*decode.Descriptor, error) {
	return nil, errStub
}
func (c *Catalog) DescribeTypes(ctx context.Context, oids ...uint32) (map[uint32]*decode.Type, error) {
	return nil, errStub
}
func (c *Catalog) Tables(ctx context.Context) ([]Table, error)         { return nil, errStub }
func (c *Catalog) Heartbeat(ctx context.Context) error                 { return errStub }
func (c *Catalog) CreatePublication(ctx context.Context) (Diff, error) { return Diff{}, errStub }
func (c *Catalog) ReconcilePublication(ctx context.Context, apply bool) (Diff, error) {
	return Diff{}, errStub
}
func (c *Catalog) DropPublication(ctx context.Context) error { return errStub }
func (c *Catalog) AdvisoryLock(ctx context.Context, slot string) (unlock func(), ok bool, err error) {
	return nil, false, errStub
}
func (c *Catalog) Preflight(ctx context.Context) []Finding      { return nil }
func (c *Catalog) WaitShutdown(ctx context.Context) error       { return errStub }
func (c *Catalog) Explain(ctx context.Context, err error) error { return err }
