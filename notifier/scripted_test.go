package notifier_test

import (
	"context"
	"sync"

	"github.com/decree-ddm/decree/notifier"
)

// call is a request to the MDM.
type call struct {
	ids     []string
	command notifier.Command
}

// scriptedMDM stands for an MDM and its faults. Without scripts it takes every command, wakes everybody and works.
type scriptedMDM struct {
	mu      sync.Mutex
	calls   []call
	pushes  [][]string
	probes  int
	script  func(ctx context.Context, c call) (map[string]notifier.Result, error)
	pushing func(ctx context.Context, ids []string) (map[string]notifier.Result, error)
	probing func(ctx context.Context) error
}

func (m *scriptedMDM) Enqueue(
	ctx context.Context, ids []string, command notifier.Command,
) (map[string]notifier.Result, error) {
	c := call{ids, command}
	m.mu.Lock()
	m.calls = append(m.calls, c)
	script := m.script
	m.mu.Unlock()
	if script == nil {
		return taken(ids), nil
	}
	return script(ctx, c)
}

func (m *scriptedMDM) Push(ctx context.Context, ids []string) (map[string]notifier.Result, error) {
	m.mu.Lock()
	m.pushes = append(m.pushes, ids)
	script := m.pushing
	m.mu.Unlock()
	if script == nil {
		return taken(ids), nil
	}
	return script(ctx, ids)
}

func (m *scriptedMDM) Probe(ctx context.Context) error {
	m.mu.Lock()
	m.probes++
	script := m.probing
	m.mu.Unlock()
	if script == nil {
		return nil
	}
	return script(ctx)
}

func taken(ids []string) map[string]notifier.Result {
	results := map[string]notifier.Result{}
	for _, id := range ids {
		results[id] = notifier.Result{}
	}
	return results
}

func (m *scriptedMDM) setScript(script func(ctx context.Context, c call) (map[string]notifier.Result, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.script = script
}

func (m *scriptedMDM) setPushing(script func(ctx context.Context, ids []string) (map[string]notifier.Result, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pushing = script
}

func (m *scriptedMDM) setProbing(script func(ctx context.Context) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.probing = script
}

// takePushes returns whom the MDM was asked to wake without a command since the last takePushes.
func (m *scriptedMDM) takePushes() [][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	pushes := m.pushes
	m.pushes = nil
	return pushes
}

// takeProbes returns how often the MDM was asked whether it works since the last takeProbes.
func (m *scriptedMDM) takeProbes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	probes := m.probes
	m.probes = 0
	return probes
}

// take returns the requests since the last take, in the order in which they came.
func (m *scriptedMDM) take() []call {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

// told returns the requests since the last take by enrollment.
func (m *scriptedMDM) told() map[string][]notifier.Command {
	told := map[string][]notifier.Command{}
	for _, c := range m.take() {
		for _, id := range c.ids {
			told[id] = append(told[id], c.command)
		}
	}
	return told
}
