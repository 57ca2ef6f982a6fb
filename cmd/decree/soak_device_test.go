package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/decree-ddm/decree/ddm"
)

// soakDevice is a device of a soak, or a user channel. It does what devices do, and is at it one thing at a time.
type soakDevice struct {
	k      *soak
	number int
	parent *soakDevice // nil: it is a device
	users  []*soakDevice

	busy sync.Mutex // held while it does something

	mu       sync.Mutex // guards what follows
	id       string
	enrolled bool
	born     int               // how many devices were in its place before
	tally    int               // token updates since it enrolled
	command  string            // UUID of the command in the MDM's queue, if there is one
	data     string            // the token in it, if there is one
	token    string            // of the manifest that it finished with
	holds    map[string]string // server tokens by identifier
	classes  map[string]string
	apps     map[string]int // versions of what is installed
	os       int
	due      bool // it was woken, or wants to go on by itself
	full     bool // its next report is to be full
}

// Every tenth enrollment is a user channel of the one before it.
func newSoakDevice(k *soak, number int) *soakDevice {
	d := &soakDevice{k: k, number: number, full: true}
	if number%10 == 9 {
		d.parent = k.devices[number-1]
		d.parent.users = append(d.parent.users, d)
	}
	d.forget()
	d.rename()
	return d
}

// rename makes it another device, or channel, in the place of this one.
func (d *soakDevice) rename() {
	if d.parent != nil {
		d.id = d.parent.id + fmt.Sprintf(":USER-%05d-%d", d.number, d.born)
		return
	}
	d.id = fmt.Sprintf("SOAK-%05d-%d", d.number, d.born)
}

// forget drops all that enrolling drops.
func (d *soakDevice) forget() {
	d.token, d.holds, d.classes, d.apps, d.full = "", map[string]string{}, map[string]string{}, map[string]int{}, true
}

func (d *soakDevice) name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id
}

func (d *soakDevice) is(state func() bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return state()
}

// header is what the MDM sends about the device.
func (d *soakDevice) header() http.Header {
	header := http.Header{"X-Enrollment-Id": {d.name()}, "X-Enrollment-Type": {"Device"}}
	if d.parent != nil {
		header.Set("X-Enrollment-Type", "User")
		header.Set("X-Enrollment-ParentID", d.parent.name())
	}
	return header
}

func (d *soakDevice) request(ctx context.Context, method, path, body string) ([]byte, bool) {
	code, text := d.k.send(ctx, method, path, body, d.header())
	return text, code == http.StatusOK
}

// event tells Decree what the MDM would.
func (d *soakDevice) event(ctx context.Context, topic, about string, fields map[string]any) {
	fields["ids"] = map[string]string{"id": d.name(), "type": d.header().Get("X-Enrollment-Type"),
		"parent_id": d.header().Get("X-Enrollment-ParentID")}
	body, err := json.Marshal(map[string]any{
		"topic": topic, "created_at": d.k.clock.now().UTC().Format(time.RFC3339Nano), about: fields,
	})
	if err != nil {
		d.k.fail("%v", err)
	}
	d.k.send(ctx, http.MethodPost, "/webhook", string(body), http.Header{})
}

// enroll enrolls the device, or enrolls it again.
func (d *soakDevice) enroll(ctx context.Context) {
	defer d.stopUsers()()
	for _, user := range d.users {
		user.mu.Lock()
		user.forget()
		user.mu.Unlock()
	}
	d.mu.Lock()
	d.forget()
	d.tally, d.enrolled = 1, true
	d.mu.Unlock()
	if d.parent == nil {
		d.event(ctx, "mdm.Authenticate", "checkin_event", map[string]any{})
	}
	d.event(ctx, "mdm.TokenUpdate", "checkin_event", map[string]any{"token_update_tally": 1})
}

// stopUsers keeps the user channels from doing anything until what it returns is called: they do nothing while their device
// enrolls or leaves.
func (d *soakDevice) stopUsers() (goOn func()) {
	for _, user := range d.users {
		user.busy.Lock()
	}
	return func() {
		for _, user := range d.users {
			user.busy.Unlock()
		}
	}
}

// checkOut leaves the MDM, with the user channels.
func (d *soakDevice) checkOut(ctx context.Context) {
	defer d.stopUsers()()
	for _, one := range append([]*soakDevice{d}, d.users...) {
		one.mu.Lock()
		one.forget()
		one.enrolled, one.command, one.due = false, "", false
		one.mu.Unlock()
	}
	d.event(ctx, "mdm.CheckOut", "checkin_event", map[string]any{})
}

// deviceStep has some device do something.
func (k *soak) deviceStep(ctx context.Context, random *rand.Rand) {
	d := k.devices[random.IntN(len(k.devices))]
	// Those that were woken come first.
	for try := 0; try < 50 && !d.is(func() bool { return d.due }); try++ {
		d = k.devices[random.IntN(len(k.devices))]
	}
	if !d.busy.TryLock() {
		return
	}
	defer d.busy.Unlock()
	if !d.is(func() bool { return d.enrolled }) {
		if d.parent == nil || d.parent.is(func() bool { return d.parent.enrolled }) {
			d.enroll(ctx)
		}
		return
	}
	switch n := random.IntN(1000); {
	case d.is(func() bool { return d.due }):
		d.poll(ctx, random)
	case n < 550:
		d.report(ctx, random)
	case n < 850:
		d.synchronize(ctx, random, "")
	case n < 950:
		d.mu.Lock()
		d.tally++
		tally := d.tally
		d.mu.Unlock()
		d.event(ctx, "mdm.TokenUpdate", "checkin_event", map[string]any{"token_update_tally": tally})
	case n < 970:
		d.enroll(ctx)
	case n < 985 && d.parent == nil:
		d.checkOut(ctx)
	case n < 995 && d.parent == nil && len(d.users) == 0:
		d.replace(ctx)
	default:
		// What is no enrollment asks, as any device behind the MDM can have it do.
		stranger := http.Header{"X-Enrollment-Id": {fmt.Sprintf("STRANGER-%d", random.Int64())}}
		for _, path := range []string{"/tokens", "/declaration-items", "/declaration/configuration/test.0"} {
			k.send(ctx, http.MethodGet, path, "", stranger)
		}
	}
}

// replace has the device go for good, and another one come.
func (d *soakDevice) replace(ctx context.Context) {
	old := d.name()
	d.checkOut(ctx)
	d.k.send(ctx, http.MethodDelete, "/v1/enrollments/"+old, "", nil)
	d.mu.Lock()
	d.born++
	d.rename()
	d.mu.Unlock()
	d.enroll(ctx)
}

// poll answers the command that waits in the MDM's queue, if there is one, and does what that is for.
func (d *soakDevice) poll(ctx context.Context, random *rand.Rand) {
	d.mu.Lock()
	command, data := d.command, d.data
	d.command, d.data, d.due = "", "", false
	d.mu.Unlock()
	if command == "" {
		d.synchronize(ctx, random, "")
		return
	}
	answer := map[string]any{"command_uuid": command, "status": "Acknowledged"}
	switch random.IntN(20) {
	case 0:
		answer["status"] = "Error"
	case 1:
		answer["status"] = "NotNow"
		d.mu.Lock()
		d.command, d.data, d.due = command, data, true
		d.mu.Unlock()
	}
	d.event(ctx, "mdm.Connect", "acknowledge_event", answer)
	if answer["status"] == "Acknowledged" {
		d.synchronize(ctx, random, data)
	}
}

// comeBack is a device that comes by itself when the load has stopped, and goes wrong no more.
func (d *soakDevice) comeBack(ctx context.Context) {
	d.busy.Lock()
	defer d.busy.Unlock()
	if d.is(func() bool { return d.tally == 0 }) {
		d.enroll(ctx) // an admin may have given sets to it already
	}
	if d.is(func() bool { return d.enrolled }) {
		d.synchronize(ctx, nil, "")
	}
}

// synchronize does what a command makes a device do. With some chance it stops half way, and goes on later.
func (d *soakDevice) synchronize(ctx context.Context, random *rand.Rand, token string) {
	broken := func() bool {
		if random == nil || random.IntN(60) != 0 {
			return false
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.due = true
		return true
	}
	if token == "" {
		var ok bool
		if token, ok = d.askTokens(ctx); !ok {
			return
		}
	}
	for round := 0; !d.is(func() bool { return d.token == token }); round++ {
		if round == 10 || broken() {
			return
		}
		fetched, ok := d.fetch(ctx, broken)
		if !ok {
			return
		}
		d.mu.Lock()
		d.token = fetched
		d.mu.Unlock()
		if token, ok = d.askTokens(ctx); !ok {
			return
		}
	}
	d.report(ctx, random)
}

func (d *soakDevice) askTokens(ctx context.Context) (string, bool) {
	text, ok := d.request(ctx, http.MethodGet, "/tokens", "")
	return soakToken(text), ok
}

// soakToken reads the token out of a tokens answer, or of a command's data.
func soakToken(text []byte) string {
	var tokens struct {
		SyncTokens struct{ DeclarationsToken string }
	}
	_ = json.Unmarshal(text, &tokens) // then there is none
	return tokens.SyncTokens.DeclarationsToken
}

// fetch fetches the manifest and what is new in it, and returns its token.
func (d *soakDevice) fetch(ctx context.Context, broken func() bool) (string, bool) {
	text, ok := d.request(ctx, http.MethodGet, "/declaration-items", "")
	if !ok {
		return "", false
	}
	var manifest struct{ DeclarationsToken string }
	items, err := ddm.ParseDeclarationItems(text)
	if err != nil || json.Unmarshal(text, &manifest) != nil {
		d.k.fail("the manifest of %s: %v", d.name(), err)
		return "", false
	}
	listed := map[string]bool{}
	for _, item := range items {
		listed[item.Identifier] = true
		if d.is(func() bool { return d.holds[item.Identifier] == item.ServerToken }) {
			continue
		}
		if broken() {
			return "", false
		}
		text, ok := d.request(ctx, http.MethodGet, "/declaration/"+string(item.Class)+"/"+item.Identifier, "")
		if !ok {
			// The device may have enrolled anew, or have lost a set, since.
			return "", false
		}
		var declaration struct{ ServerToken string }
		if err := json.Unmarshal(text, &declaration); err != nil {
			d.k.fail("the declaration %s of %s: %v", item.Identifier, d.name(), err)
		}
		d.mu.Lock()
		d.holds[item.Identifier], d.classes[item.Identifier] = declaration.ServerToken, string(item.Class)
		d.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for identifier := range d.holds {
		if !listed[identifier] {
			delete(d.holds, identifier)
		}
	}
	return manifest.DeclarationsToken, true
}

// report sends a status report: of the declarations, and where there is some chance of what else devices report.
func (d *soakDevice) report(ctx context.Context, random *rand.Rand) {
	body, err := json.Marshal(d.statusReport(random))
	if err != nil {
		d.k.fail("%v", err)
	}
	d.request(ctx, http.MethodPut, "/status", string(body))
}

// soakApps is how many apps a device has at most.
const soakApps = 30

// statusReport makes a report. Without chance it is of the declarations only, all of them valid.
func (d *soakDevice) statusReport(random *rand.Rand) map[string]any {
	d.mu.Lock()
	defer d.mu.Unlock()
	lists := map[string][]any{"activations": {}, "assets": {}, "configurations": {}, "management": {}}
	for identifier, token := range d.holds {
		list := d.classes[identifier]
		if list != "management" {
			list += "s"
		}
		state := map[string]any{"identifier": identifier, "server-token": token, "active": true, "valid": "valid"}
		if random != nil && random.IntN(40) == 0 {
			state["valid"], state["active"] = "invalid", false
			state["reasons"] = []any{map[string]any{"code": fmt.Sprintf("Error.Soak%d", random.IntN(4)),
				"description": "It cannot be."}}
		}
		lists[list] = append(lists[list], state)
	}
	items := map[string]any{"management": map[string]any{"declarations": lists}}
	report := map[string]any{"StatusItems": items}
	if random == nil {
		return report
	}
	full := d.full || random.IntN(20) == 0
	if d.full = false; full {
		report["FullReport"] = true
		items["management"].(map[string]any)["client-capabilities"] = map[string]any{
			"supported-versions": []string{"1.0.0"}, "supported-payloads": map[string]any{
				"declarations": map[string]any{"configurations": []string{"com.apple.configuration.management.test",
					fmt.Sprintf("com.apple.configuration.soak%d", d.os%5)}},
				"status-items": []string{"device.operating-system.version", "mdm.app"},
			},
		}
	}
	d.reportDevice(items, full, random)
	d.reportApps(items, full, random)
	if random.IntN(8) == 0 {
		report["Errors"] = []any{map[string]any{"StatusItem": fmt.Sprintf("soak.item%d", random.IntN(6)),
			"Reasons": []any{map[string]any{"code": "Error.NotSupported"}}}}
	}
	if random.IntN(10) == 0 {
		strange := []any{nil, 1e300, "", strings.Repeat("long ", 1000), []any{1, "2", nil}, []any{[]any{}},
			map[string]any{"identifier": 5, "deep": map[string]any{"er": []any{map[string]any{}}}}}
		items["strange"] = map[string]any{fmt.Sprintf("item-%d", random.IntN(1_000_000)): strange[random.IntN(len(strange))]}
	}
	return report
}

func (d *soakDevice) reportDevice(items map[string]any, full bool, random *rand.Rand) {
	if random.IntN(30) == 0 {
		d.os++
	}
	if !full && random.IntN(3) > 0 {
		return
	}
	items["device"] = map[string]any{
		"identifier": map[string]any{"serial-number": fmt.Sprintf("S%05d", d.number)},
		"model":      map[string]any{"identifier": fmt.Sprintf("Mac%d,1", d.number%7)},
		"operating-system": map[string]any{"family": "macOS", "version": fmt.Sprintf("15.%d", d.os%20),
			"build-version": fmt.Sprintf("24A%d", d.os%20)},
		"power": map[string]any{"battery-health": random.IntN(100)},
	}
	items["softwareupdate"] = map[string]any{"install-state": []string{"none", "downloading", "installing"}[random.IntN(3)]}
}

// reportApps has the list of apps grow and shrink.
func (d *soakDevice) reportApps(items map[string]any, full bool, random *rand.Rand) {
	changed := []any{}
	for range random.IntN(4) {
		app := fmt.Sprintf("com.example.app%d", random.IntN(soakApps))
		if d.apps[app] > 0 && random.IntN(2) == 0 {
			delete(d.apps, app)
			changed = append(changed, map[string]any{"identifier": app, "_removed": true})
			continue
		}
		d.apps[app]++
		changed = append(changed, map[string]any{"identifier": app, "version": d.apps[app]})
	}
	if full {
		changed = []any{}
		for app, version := range d.apps {
			changed = append(changed, map[string]any{"identifier": app, "version": version})
		}
	}
	items["mdm"] = map[string]any{"app": changed}
}
