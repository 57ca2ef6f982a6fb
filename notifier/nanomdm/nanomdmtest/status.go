package nanomdmtest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
)

const (
	classActivation    = "activation"
	classAsset         = "asset"
	classConfiguration = "configuration"
	classManagement    = "management"

	validValid   = "valid"
	validInvalid = "invalid"
	validUnknown = "unknown"

	testConfiguration = "com.apple.configuration.management.test"
)

// ReportStatus sends a status report outside of a sync: an incremental one, or
// a full one like devices send daily.
func (d *Device) ReportStatus(ctx context.Context, full bool) error {
	d.conversation.Lock()
	defer d.conversation.Unlock()

	return d.report(ctx, full)
}

// report sends a status report. The first of an enrollment is always a full
// one. The conversation is held.
func (d *Device) report(ctx context.Context, full bool) error {
	d.mutex.Lock()
	full = full || !d.state.reported
	body, err := json.Marshal(d.statusReport(full))
	d.mutex.Unlock()

	if err != nil {
		return err
	}

	if _, err := d.request(ctx, "status", body); err != nil {
		return err
	}

	d.mutex.Lock()
	defer d.mutex.Unlock()

	d.state.reported = true
	d.state.statusDue = false

	return nil
}

type object = map[string]any

// statusReport composes a report. The mutex is held.
func (d *Device) statusReport(full bool) object {
	management := object{"declarations": d.declarationStatus()}
	items := object{"management": management}
	report := object{"StatusItems": items, "Errors": []object{}}

	if !full {
		return report
	}

	report["FullReport"] = true
	management["client-capabilities"] = clientCapabilities()
	items["device"] = object{
		"identifier": object{"serial-number": d.serialNumber, "udid": d.enrollment.UDID},
		"model": object{
			"family": "Mac", "identifier": "Mac15,3", "marketing-name": "MacBook Pro", "number": "A2918",
		},
		"operating-system": object{
			"family": "macOS", "version": "15.1", "build-version": "24B83", "marketing-name": "macOS Sequoia",
			"supplemental": object{"build-version": "24B83", "extra-version": ""},
		},
	}

	return report
}

func clientCapabilities() object {
	return object{
		"supported-versions": []string{"1.0.0"},
		"supported-features": object{},
		"supported-payloads": object{
			"declarations": object{
				"activations": []string{"com.apple.activation.simple"},
				"assets":      []string{"com.apple.asset.data", "com.apple.asset.useridentity"},
				"configurations": []string{
					"com.apple.configuration.legacy",
					testConfiguration,
					"com.apple.configuration.management.status-subscriptions",
					"com.apple.configuration.passcode.settings",
				},
				"management": []string{
					"com.apple.management.organization-info",
					"com.apple.management.properties",
					"com.apple.management.server-capabilities",
				},
			},
			"status-items": []string{
				"device.identifier.serial-number", "device.identifier.udid", "device.model.family",
				"device.model.identifier", "device.operating-system.version",
				"management.client-capabilities", "management.declarations",
			},
		},
	}
}

type declarationStatus struct {
	Identifier  string   `json:"identifier"`
	ServerToken string   `json:"server-token"`
	Active      bool     `json:"active"`
	Valid       string   `json:"valid"`
	Reasons     []Reason `json:"reasons,omitempty"`
}

// declarationStatus composes management.declarations: the state of all of the
// declarations, by list and sorted by identifier. The mutex is held.
func (d *Device) declarationStatus() map[string][]declarationStatus {
	listOf := map[string]string{
		classActivation:    "activations",
		classAsset:         "assets",
		classConfiguration: "configurations",
		classManagement:    "management",
	}

	lists := make(map[string][]declarationStatus, len(listOf))
	for _, list := range listOf {
		lists[list] = []declarationStatus{}
	}

	for _, identifier := range slices.Sorted(maps.Keys(d.state.declarations)) {
		held := d.state.declarations[identifier]
		list := listOf[held.Class]

		if old, replaced := d.state.replaced[identifier]; replaced && d.faults.ReportOldTokens {
			lists[list] = append(lists[list], declarationStatus{
				Identifier: identifier, ServerToken: old.ServerToken, Valid: validUnknown,
			})
		}

		lists[list] = append(lists[list], declarationStatus{
			Identifier: identifier, ServerToken: held.ServerToken,
			Active: held.Active, Valid: held.Valid, Reasons: held.Reasons,
		})
	}

	return lists
}

// evaluate decides which declarations are active and valid. Every predicate is
// taken to be true. A test configuration that is to fail is invalid whether or
// not an activation refers to it.
func evaluate(declarations map[string]HeldDeclaration) {
	activated := activate(declarations)
	referred := make(map[string]bool)

	for identifier, held := range declarations {
		if held.Class != classConfiguration {
			continue
		}

		held.Active, held.Valid, held.Reasons = activated[identifier], validValid, nil

		switch {
		case failsByDesign(held):
			held.Active, held.Valid = false, validInvalid
			held.Reasons = []Reason{reason(held, "Error.ConfigurationCannotBeApplied", "Configuration cannot be applied", nil)}
		case !held.Active:
			held.Reasons = []Reason{reason(held, "Info.NotReferencedByActivation", "Configuration is not referenced", nil)}
		}

		if held.Active {
			noteStrings(decodePayload(held), referred)
		}

		declarations[identifier] = held
	}

	for identifier, held := range declarations {
		switch held.Class {
		case classManagement:
			// Management declarations are applied, but are never active.
			held.Active, held.Valid, held.Reasons = false, validValid, nil
		case classAsset:
			held.Active, held.Valid, held.Reasons = referred[identifier], validValid, nil
			if !held.Active {
				held.Reasons = []Reason{reason(held, "Info.NotReferencedByConfiguration", "Asset is not referenced", nil)}
			}
		default:
			continue
		}

		declarations[identifier] = held
	}
}

// activate decides about the activations and returns the identifiers of the
// configurations that the active ones refer to. One that refers to what is
// not there is not active, as seen on devices:
// https://developer.apple.com/forums/thread/774837
func activate(declarations map[string]HeldDeclaration) map[string]bool {
	activated := make(map[string]bool)

	for identifier, held := range declarations {
		if held.Class != classActivation {
			continue
		}

		var missing []string

		configurations, _ := decodePayload(held)["StandardConfigurations"].([]any)
		for _, value := range configurations {
			configuration, _ := value.(string)
			if declarations[configuration].Class != classConfiguration {
				missing = append(missing, configuration)
			}
		}

		held.Active, held.Valid, held.Reasons = len(missing) == 0, validValid, nil
		if !held.Active {
			held.Reasons = []Reason{reason(held, "Error.MissingConfigurations", "Activation is missing configurations",
				object{"ConfigurationIdentifiers": missing})}
		}

		declarations[identifier] = held

		if held.Active {
			noteStrings(configurations, activated)
		}
	}

	return activated
}

func reason(held HeldDeclaration, code, description string, details object) Reason {
	all := object{"Identifier": held.Identifier, "ServerToken": held.ServerToken}
	maps.Copy(all, details)

	return Reason{Code: code, Description: description, Details: all}
}

// failsByDesign tells the test configuration that asks to be reported failed.
func failsByDesign(held HeldDeclaration) bool {
	var declaration struct{ Type string }
	if err := json.Unmarshal(held.JSON, &declaration); err != nil || declaration.Type != testConfiguration {
		return false
	}

	return decodePayload(held)["ReturnStatus"] == "Failed"
}

func decodePayload(held HeldDeclaration) object {
	var declaration struct{ Payload object }
	if err := json.Unmarshal(held.JSON, &declaration); err != nil {
		return nil
	}

	return declaration.Payload
}

// noteStrings adds all string values in a JSON value to the set. An asset that
// a configuration names anywhere counts as referred to.
func noteStrings(value any, set map[string]bool) {
	switch value := value.(type) {
	case string:
		set[value] = true
	case []any:
		for _, element := range value {
			noteStrings(element, set)
		}
	case object:
		for _, element := range value {
			noteStrings(element, set)
		}
	}
}
