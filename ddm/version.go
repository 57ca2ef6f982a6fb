package ddm

import "strings"

const (
	maxVersionParts  = 8
	maxVersionDigits = 12
)

// VersionOrder returns a text that sorts as versions do: that of 15.9 before that of 15.10, and 15 the same as 15.0. Parts
// are separated by dots; of each part the leading digits are a number, and what follows them comes after all that has only digits. It is empty for
// what does not begin with a digit.
// Apple: status/device.operating-system.version.yaml.
func VersionOrder(version string) string {
	version = strings.TrimSpace(version)
	if version == "" || !isDigit(version[0]) {
		return ""
	}
	var parts []string
	for part := range strings.SplitSeq(version, ".") {
		if len(parts) == maxVersionParts {
			break
		}
		digits := 0
		for digits < len(part) && isDigit(part[digits]) {
			digits++
		}
		number := strings.TrimLeft(part[:digits], "0")
		if len(number) > maxVersionDigits {
			number = strings.Repeat("9", maxVersionDigits)
		}
		rest := part[digits:min(len(part), digits+maxVersionDigits)]
		parts = append(parts, strings.Repeat("0", maxVersionDigits-len(number))+number+rest)
	}
	zero := strings.Repeat("0", maxVersionDigits)
	for len(parts) > 1 && parts[len(parts)-1] == zero {
		parts = parts[:len(parts)-1]
	}
	return strings.Join(parts, ".")
}
