package ddm

import (
	"errors"
	"fmt"
	"strings"
)

// Class is the kind of a declaration: the third part of its Type, and the
// {class} of the path that a device fetches the declaration from.
type Class string

// The four classes.
const (
	ClassActivation    Class = "activation"
	ClassAsset         Class = "asset"
	ClassConfiguration Class = "configuration"
	ClassManagement    Class = "management"
)

// Classes returns the four classes in the order of the lists in declaration
// items, which is also the order of their names.
func Classes() []Class {
	return []Class{ClassActivation, ClassAsset, ClassConfiguration, ClassManagement}
}

// ParseClass returns the class that s names, exactly as in Class. It reports
// false when there is none.
func ParseClass(s string) (Class, bool) {
	switch class := Class(s); class {
	case ClassActivation, ClassAsset, ClassConfiguration, ClassManagement:
		return class, true
	}
	return "", false
}

// ClassOfType returns the class of a declaration type such as
// "com.apple.configuration.passcode.settings": its third part. It returns an
// error when that is none of the four classes, or when one of the first four
// parts is missing or empty.
func ClassOfType(declarationType string) (Class, error) {
	parts := strings.SplitN(declarationType, ".", 5)
	if len(parts) >= 3 {
		if class, ok := ParseClass(parts[2]); ok {
			if len(parts) == 3 || parts[0] == "" || parts[1] == "" || parts[3] == "" {
				return "", fmt.Errorf("must look like com.apple.%s.NAME", class)
			}
			return class, nil
		}
	}
	return "", errors.New("must look like com.apple.CLASS.NAME where CLASS is activation, asset, configuration or management")
}

// listName returns the name of the class's list in declaration items.
// Apple: protocol/declarationitemsresponse.yaml.
func (c Class) listName() string {
	switch c {
	case ClassActivation:
		return "Activations"
	case ClassAsset:
		return "Assets"
	case ClassConfiguration:
		return "Configurations"
	default:
		return "Management"
	}
}

// statusListName returns the name of the class's list in the status item
// management.declarations. Apple: status/management.declarations.yaml.
func (c Class) statusListName() string {
	return strings.ToLower(c.listName())
}
