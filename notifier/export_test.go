package notifier

import "time"

// SetClock has the breaker go by a clock of the test's.
func (n *Notifier) SetClock(now func() time.Time) { n.breaker.now = now }
