package storage

import "time"

// Facts are what is known of a device by name, from the status items that say it. Empty is what it has not said, or has said
// as something else than a text or a number.
type Facts struct {
	SerialNumber string
	Model        string // such as "MacBookPro18,3"
	OSFamily     string // such as "macOS"
	OSVersion    string
	OSBuild      string
	// ConfirmedAt is since when it is known that declarative management is on: since the device said what it supports. Zero
	// means that it is not known.
	ConfirmedAt time.Time
}
