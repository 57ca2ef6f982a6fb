package storage

// NotReadyError says why the database cannot be worked with.
type NotReadyError struct {
	// Reason is for everybody.
	Reason string
	// Err is what the database said, if anything. It may name hosts and files, and is for the log only.
	Err error
}

func (e *NotReadyError) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.Err.Error()
}

func (e *NotReadyError) Unwrap() error { return e.Err }
