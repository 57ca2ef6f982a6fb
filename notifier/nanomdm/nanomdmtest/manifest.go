package nanomdmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// errMalformed is an answer that a device cannot make sense of.
var errMalformed = errors.New("malformed answer")

// parseTokens reads the body of tokens. It is as strict as a device, which
// drops an answer whose timestamp has fractions of a second or an offset.
func parseTokens(body []byte) (string, error) {
	var tokens struct {
		SyncTokens struct {
			DeclarationsToken string
			Timestamp         string
		}
	}
	if err := json.Unmarshal(body, &tokens); err != nil {
		return "", fmt.Errorf("%w: tokens: %w", errMalformed, err)
	}

	if tokens.SyncTokens.DeclarationsToken == "" {
		return "", fmt.Errorf("%w: tokens without DeclarationsToken", errMalformed)
	}

	if _, err := time.Parse("2006-01-02T15:04:05Z", tokens.SyncTokens.Timestamp); err != nil ||
		strings.Contains(tokens.SyncTokens.Timestamp, ".") {
		return "", fmt.Errorf("%w: tokens with Timestamp %q", errMalformed, tokens.SyncTokens.Timestamp)
	}

	return tokens.SyncTokens.DeclarationsToken, nil
}

// manifestItem is an entry of declaration-items with the class of its list.
type manifestItem struct {
	class       string
	Identifier  string
	ServerToken string
}

// parseManifest reads the body of declaration-items. All four lists have to be
// there.
func parseManifest(body []byte) (items []manifestItem, token string, err error) {
	var manifest struct {
		Declarations struct {
			Activations    *[]manifestItem
			Assets         *[]manifestItem
			Configurations *[]manifestItem
			Management     *[]manifestItem
		}
		DeclarationsToken string
	}
	if err := json.Unmarshal(body, &manifest); err != nil {
		return nil, "", fmt.Errorf("%w: declaration-items: %w", errMalformed, err)
	}

	if manifest.DeclarationsToken == "" {
		return nil, "", fmt.Errorf("%w: declaration-items without DeclarationsToken", errMalformed)
	}

	seen := make(map[string]bool)

	for _, list := range []struct {
		class string
		items *[]manifestItem
	}{
		{classActivation, manifest.Declarations.Activations},
		{classAsset, manifest.Declarations.Assets},
		{classConfiguration, manifest.Declarations.Configurations},
		{classManagement, manifest.Declarations.Management},
	} {
		if list.items == nil {
			return nil, "", fmt.Errorf("%w: declaration-items without the list of class %s", errMalformed, list.class)
		}

		for _, item := range *list.items {
			if item.Identifier == "" || item.ServerToken == "" || seen[item.Identifier] {
				return nil, "", fmt.Errorf("%w: declaration-items has %+v, or has it twice", errMalformed, item)
			}

			seen[item.Identifier] = true
			item.class = list.class
			items = append(items, item)
		}
	}

	return items, manifest.DeclarationsToken, nil
}

// escapePath escapes an identifier for an endpoint. Slashes stay: NanoMDM
// parses and resolves the endpoint as a relative URL.
func escapePath(identifier string) string {
	segments := strings.Split(identifier, "/")
	for i, segment := range segments {
		segments[i] = url.PathEscape(segment)
	}

	return strings.Join(segments, "/")
}
