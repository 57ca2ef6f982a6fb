package sqlstore

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

const (
	pathDevice       = ddm.PathStatusItems + ".device"
	pathManagement   = ddm.PathStatusItems + ".management"
	pathCapabilities = pathManagement + ".client-capabilities"
	pathPayloads     = pathCapabilities + ".supported-payloads"
	pathUpdate       = ddm.PathStatusItems + ".softwareupdate"
)

// What is known of a device by name, and the status item that says it. Apple: status/device.*.yaml.
var factPaths = map[string]func(*storage.Facts) *string{
	pathDevice + ".identifier.serial-number":       func(f *storage.Facts) *string { return &f.SerialNumber },
	pathDevice + ".model.identifier":               func(f *storage.Facts) *string { return &f.Model },
	pathDevice + ".operating-system.family":        func(f *storage.Facts) *string { return &f.OSFamily },
	pathDevice + ".operating-system.version":       func(f *storage.Facts) *string { return &f.OSVersion },
	pathDevice + ".operating-system.build-version": func(f *storage.Facts) *string { return &f.OSBuild },
}

// capabilityPaths are the lists of what a device supports. Apple: status/management.client-capabilities.yaml.
var capabilityPaths = []string{
	pathPayloads + ".declarations.activations", pathPayloads + ".declarations.assets",
	pathPayloads + ".declarations.configurations", pathPayloads + ".declarations.management",
	pathPayloads + ".status-items",
}

// confirmingPath is reported by every device on which declarative management is on.
const confirmingPath = pathCapabilities + ".supported-versions"

// maxCapabilities is how much of what a device says that it supports is kept.
const maxCapabilities = 2000

// factHashes are the hashes of the paths that facts are made from.
var factHashes = func() (hashes []any) {
	for path := range factPaths {
		h := hashOf([]byte(path))
		hashes = append(hashes, h[:])
	}
	for _, path := range append(slices.Clone(capabilityPaths), confirmingPath) {
		h := hashOf([]byte(path))
		hashes = append(hashes, h[:])
	}
	return hashes
}()

// touchesFacts reports whether a change of these paths can change facts. A path above stands for all that was below it.
func touchesFacts(paths []string) bool {
	for _, path := range paths {
		for _, family := range []string{pathDevice, pathCapabilities} {
			if strings.HasPrefix(path, family) || strings.HasPrefix(family, path) {
				return true
			}
		}
	}
	return false
}

// refreshFacts makes an enrollment's facts from its values, whatever these are.
func (t *tx) refreshFacts(enrollmentID string) error {
	var facts storage.Facts
	var supported []string
	confirmed := false
	err := queryRows(t.ctx, t.raw, func(rows *sql.Rows) error {
		var path, element string
		var value []byte
		if err := rows.Scan(&path, &element, packed{&value}); err != nil {
			return err
		}
		name, ok := scalarText(value)
		if fact := factPaths[path]; fact != nil {
			if element == "" { // else it is one of a list
				*fact(&facts) = name
			}
			return nil
		}
		confirmed = true
		if ok && path != confirmingPath && len(supported) < maxCapabilities {
			supported = append(supported, name)
		}
		return nil
	}, `SELECT path, element, value FROM status_values WHERE enrollment_id = ? AND path_hash IN `+list(len(factHashes))+`
		ORDER BY path_hash, element_hash`, append([]any{enrollmentID}, factHashes...)...)
	if err != nil {
		return err
	}
	return t.writeFacts(enrollmentID, facts, supported, confirmed)
}

// scalarText returns the text of a JSON string or number that can be a name. Any other value names nothing.
func scalarText(value []byte) (name string, ok bool) {
	var content any
	if len(value) > 8*maxOctets || json.Unmarshal(value, &content) != nil {
		return "", false
	}
	switch content := content.(type) {
	case string:
		name = content
	case float64:
		name = strings.TrimSpace(string(value))
	}
	return name, name != "" && len(name) <= maxOctets
}

// scalarOfAnyLength returns the text of a JSON string or number, unless it is empty. A detail that becomes too long for it
// says so.
func scalarOfAnyLength(value []byte) (scalar string, ok bool) {
	value = bytes.TrimSpace(value)
	switch {
	case len(value) == 0:
		return "", false
	case value[0] == '"':
		err := json.Unmarshal(value, &scalar)
		return scalar, err == nil && scalar != ""
	}
	return string(value), value[0] == '-' || '0' <= value[0] && value[0] <= '9'
}

// writeFacts writes facts where they differ, and tells of a new OS version.
func (t *tx) writeFacts(enrollmentID string, facts storage.Facts, supported []string, confirmed bool) error {
	for _, fact := range []*string{&facts.SerialNumber, &facts.Model, &facts.OSFamily, &facts.OSVersion, &facts.OSBuild} {
		if len(*fact) > maxOctets {
			*fact = ""
		}
	}
	slices.Sort(supported)
	supported = slices.Compact(supported)
	capabilities := ""
	if len(supported) > 0 {
		sum := sha256.Sum256([]byte(strings.Join(supported, "\x00")))
		capabilities = hex.EncodeToString(sum[:16])
	}
	var before storage.Facts
	var beforeCapabilities string
	var confirmedBefore bool
	err := t.raw.QueryRowContext(t.ctx, `SELECT serial_number, model, os_family, os_version, os_build, capabilities,
			confirmed_at IS NOT NULL FROM facts WHERE enrollment_id = ?`, enrollmentID).
		Scan(&before.SerialNumber, &before.Model, &before.OSFamily, &before.OSVersion, &before.OSBuild, &beforeCapabilities,
			&confirmedBefore)
	known := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if before == facts && beforeCapabilities == capabilities && confirmedBefore == confirmed {
		return nil
	}
	if capabilities != beforeCapabilities {
		if err := t.adoptCapabilities(capabilities, supported); err != nil {
			return err
		}
	}
	values := []any{
		facts.SerialNumber, facts.Model, facts.OSFamily, facts.OSVersion, ddm.VersionOrder(facts.OSVersion), facts.OSBuild,
		capabilities,
	}
	if known {
		_, err = t.exec(`UPDATE facts SET serial_number = ?, model = ?, os_family = ?, os_version = ?, os_order = ?,
				os_build = ?, capabilities = ?,
				confirmed_at = CASE WHEN ? THEN COALESCE(confirmed_at, `+t.now+`) ELSE NULL END
			WHERE enrollment_id = ?`, append(values, confirmed, enrollmentID)...)
	} else {
		_, err = t.exec(`INSERT INTO facts (serial_number, model, os_family, os_version, os_order, os_build, capabilities,
				confirmed_at, enrollment_id)
			VALUES (?, ?, ?, ?, ?, ?, ?, CASE WHEN ? THEN `+t.now+` ELSE NULL END, ?)`,
			append(values, confirmed, enrollmentID)...)
	}
	if err != nil {
		return err
	}
	if capabilities != beforeCapabilities && beforeCapabilities != "" {
		if err := t.dropCapabilities(beforeCapabilities); err != nil {
			return err
		}
	}
	if before.OSVersion == "" || facts.OSVersion == "" || before.OSVersion == facts.OSVersion {
		return nil
	}
	return t.happened(storage.HappenedOSVersion, enrollmentID, map[string]any{
		"from": before.OSVersion, "to": facts.OSVersion, "build": facts.OSBuild, "os_family": facts.OSFamily,
	})
}

// adoptCapabilities makes the list of what is supported known under its id. Who adopts one and who drops one wait for each
// other, so that none is dropped that was just adopted.
func (t *tx) adoptCapabilities(id string, supported []string) error {
	if id == "" {
		return nil
	}
	known, err := t.exists(`SELECT 1 FROM capabilities WHERE id = ? ORDER BY name LIMIT 1`+t.dialect.Lock, id)
	if err != nil || known {
		return err
	}
	for chunk := range slices.Chunk(supported, chunkSize) {
		values := make([]any, 0, 2*len(chunk))
		for _, name := range chunk {
			values = append(values, id, name)
		}
		rows := strings.TrimSuffix(strings.Repeat("(?, ?),", len(chunk)), ",")
		if _, err := t.exec(`INSERT INTO capabilities (id, name) VALUES `+rows+` `+
			t.dialect.Upsert("id, name")+` name = `+t.dialect.Inserted("name"), values...); err != nil {
			return err
		}
	}
	return nil
}

// dropCapabilities forgets a list that no enrollment has any more.
func (t *tx) dropCapabilities(id string) error {
	if _, err := t.exists(`SELECT 1 FROM capabilities WHERE id = ? ORDER BY name LIMIT 1`+t.dialect.Lock, id); err != nil {
		return err
	}
	used, err := t.exists(`SELECT 1 FROM facts WHERE capabilities = ? LIMIT 1`, id)
	if err != nil || used {
		return err
	}
	_, err = t.exec(`DELETE FROM capabilities WHERE id = ?`, id)
	return err
}

// forgetFacts deletes an enrollment's facts.
func (t *tx) forgetFacts(enrollmentID string) error {
	if err := t.writeFacts(enrollmentID, storage.Facts{}, nil, false); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM facts WHERE enrollment_id = ?`, enrollmentID)
	return err
}

// softwareUpdate tells of a new state of the device's software update. Apple: status/softwareupdate.install-state.yaml.
func (f *fold) softwareUpdate() error {
	names := map[string]string{
		pathUpdate + ".install-state":                 "install_state",
		pathUpdate + ".pending-version.os-version":    "pending_os_version",
		pathUpdate + ".pending-version.build-version": "pending_build",
		pathUpdate + ".failure-reason.reason":         "failure_reason",
	}
	if !slices.ContainsFunc(f.changed, func(path string) bool { return names[path] != "" }) {
		return nil
	}
	values := []any{f.enrollmentID}
	for path := range names {
		h := hashOf([]byte(path))
		values = append(values, h[:])
	}
	detail := map[string]any{}
	err := queryRows(f.tx.ctx, f.tx.raw, func(rows *sql.Rows) error {
		var path string
		var value []byte
		if err := rows.Scan(&path, packed{&value}); err != nil {
			return err
		}
		if told, ok := scalarOfAnyLength(value); ok {
			detail[names[path]] = told
		}
		return nil
	}, `SELECT path, value FROM status_values WHERE enrollment_id = ? AND path_hash IN `+list(len(names))+`
		ORDER BY path_hash, element_hash`, values...)
	if err != nil {
		return err
	}
	return f.tx.happened(storage.HappenedSoftwareUpdate, f.enrollmentID, detail)
}
