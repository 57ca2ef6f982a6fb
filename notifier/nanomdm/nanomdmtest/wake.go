package nanomdmtest

import (
	"context"
	"fmt"
)

// announce tells all waiters that something changed. The mutex is held.
func (d *Device) announce() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// wake receives a push. A device ignores one with another's magic.
func (d *Device) wake(magic string) {
	if magic != d.pushMagic {
		return
	}

	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.pushes++
	d.announce()
}

// wait returns when ready, which is called with the mutex held, says so.
func (d *Device) wait(ctx context.Context, ready func() bool) error {
	for {
		d.mutex.Lock()
		done, changed := ready(), d.changed
		d.mutex.Unlock()

		if done {
			return nil
		}

		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// WaitPush returns when the device has received a push since the last WaitPush
// returned. Several pushes in between count as one.
func (d *Device) WaitPush(ctx context.Context) error {
	err := d.wait(ctx, func() bool {
		arrived := d.pushes > d.awaited
		d.awaited = d.pushes

		return arrived
	})
	if err != nil {
		return fmt.Errorf("device %s waits for a push: %w", d.id, err)
	}

	return nil
}

// Run makes the device poll by itself, at each push and when NotNow ends,
// until the context or the test ends. It returns at once; what goes wrong is
// kept for [Device.LastError].
func (d *Device) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})

	d.tb.Cleanup(func() {
		cancel()
		<-ended
	})

	go func() {
		defer close(ended)

		called := func() bool { return d.pushes > d.polled || d.returning }
		for d.wait(ctx, called) == nil {
			if err := d.Poll(ctx); err != nil && ctx.Err() == nil {
				d.setLastError(err)
			}
		}
	}()
}
