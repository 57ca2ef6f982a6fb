package storage

import (
	"context"
	"time"

	"github.com/decree-ddm/decree/ddm"
)

// ReceivedStatus is a status report as it came, with what it says.
type ReceivedStatus struct {
	Raw    []byte
	Report *ddm.StatusReport
	// Device is what the request tells about the device, written in the same transaction unless it is NothingNew.
	Device     DeviceUpdate
	NothingNew bool
}

// DeclarationStatus is what a device last said of a declaration.
type DeclarationStatus struct {
	Identifier  string
	ServerToken string
	Active      bool
	Valid       string
	Reasons     []byte // JSON, or nil
	// Current says that ServerToken is the one that the device should have now.
	Current    bool
	ReceivedAt time.Time
	StatusID   int64
}

// StatusValue is one value, or one element of a list, that a device reported.
type StatusValue struct {
	Path      string
	Value     []byte // JSON text as it was reported
	ChangedAt time.Time
	StatusID  int64
}

// StatusError is something that a device could not do or report.
type StatusError struct {
	Path       string
	Error      []byte // JSON
	ReceivedAt time.Time
	StatusID   int64
}

// StatusReport is a report as the device sent it.
type StatusReport struct {
	StatusID   int64
	Index      int // 0 is the newest
	Raw        []byte
	ReceivedAt time.Time
}

// Statuses keeps what devices report. Lists are in the order of bytes, except for errors, which are newest first.
type Statuses interface {
	// PutStatus stores a report and folds it into what is known, in the order of arrival per enrollment. The
	// enrollment gets a row if it has none. A report from an earlier enrollment of the device is dropped.
	PutStatus(ctx context.Context, status ReceivedStatus) error
	DeclarationStatuses(ctx context.Context, enrollmentID string) ([]DeclarationStatus, error)
	StatusValues(ctx context.Context, enrollmentID string) ([]StatusValue, error)
	StatusErrors(ctx context.Context, enrollmentID string, offset, limit int) ([]StatusError, error)
	// StatusReportByIndex counts from the newest, which is 0. ErrNotFound: there are not so many.
	StatusReportByIndex(ctx context.Context, enrollmentID string, index int) (*StatusReport, error)
	// StatusReportByID returns ErrNotFound also for another enrollment's report.
	StatusReportByID(ctx context.Context, enrollmentID string, statusID int64) (*StatusReport, error)
}
