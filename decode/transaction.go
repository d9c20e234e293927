package decode

import (
	"time"

	"github.com/jackc/pglogrepl"
)

// Transaction is a committed source transaction, the unit of order and of progress.
type Transaction struct {
	XID uint32
	// Commit is the LSN of the commit record, known from Begin on. It rises strictly from one transaction to the next
	// of a connection.
	Commit pglogrepl.LSN
	// End is the LSN just after the commit record; zero until Commit.
	End pglogrepl.LSN
	// CommitTime by the server's clock, in UTC, to the microsecond.
	CommitTime time.Time
}

// Begin opens a transaction.
type Begin struct{ Transaction }

// Commit closes the transaction that the last Begin opened.
type Commit struct{ Transaction }
