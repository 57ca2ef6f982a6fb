// Command notices writes the licences and notices of everything that is linked into the released binaries. It reads them
// from the module cache, so that they are those of the versions which go.mod names.
//
//	go run ./tools/notices -o docs/NOTICE
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

//go:generate go run . -o ../../docs/NOTICE

const program = "github.com/decree-ddm/decree/cmd/decree"

// platforms are those of tools/release.sh. Not every module is linked on each.
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"}

// module is something that is linked in, with a licence of its own.
type module struct {
	Path, Version, Dir string
	Main               bool
}

func main() {
	output := flag.String("o", "", "file to write")
	flag.Parse()
	if err := run(*output); err != nil {
		fmt.Fprintln(os.Stderr, "notices:", err)
		os.Exit(1)
	}
}

func run(output string) error {
	modules, err := linked()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := write(&text, modules); err != nil {
		return err
	}
	return os.WriteFile(output, text.Bytes(), 0o644) // #nosec G306 -- everybody may read it, as the rest of the tree
}

// linked returns what is in the binaries, sorted by path: the standard library and every module with a package that is
// needed on some platform.
func linked() ([]module, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", explained(err))
	}
	// Without a version, so that the file is the same whichever release of Go makes it.
	modules := map[string]module{
		"": {Path: "the standard library of Go", Dir: strings.TrimSpace(string(root))},
	}
	for _, platform := range platforms {
		system, architecture, _ := strings.Cut(platform, "/")
		list := exec.Command("go", "list", "-deps", "-json=Module", program)
		list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+architecture)
		listed, err := list.Output()
		if err != nil {
			return nil, fmt.Errorf("go list for %s: %w", platform, explained(err))
		}
		for decoder := json.NewDecoder(bytes.NewReader(listed)); ; {
			var p struct{ Module *module }
			err := decoder.Decode(&p)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("go list for %s: %w", platform, err)
			}
			if p.Module != nil && !p.Module.Main {
				modules[p.Module.Path] = *p.Module
			}
		}
	}
	var sorted []module
	for _, m := range modules {
		sorted = append(sorted, m)
	}
	slices.SortFunc(sorted, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return sorted, nil
}

// explained adds what a command said before it failed.
func explained(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}

// notice matches the names of files with licences and notices.
var notice = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|unlicense)`)

// write writes the files of each module, and fails where one has none.
func write(output io.Writer, modules []module) error {
	fmt.Fprint(output, "Decree is under the licence in the file LICENSE. Its binaries contain the following software of others, "+
		"under\nthe licences below. The source code of a MODULE VERSION is at https://pkg.go.dev/MODULE@VERSION.\n")
	for _, m := range modules {
		entries, err := os.ReadDir(m.Dir)
		if err != nil {
			return err
		}
		found := false
		for _, entry := range entries {
			if entry.IsDir() || !notice.MatchString(entry.Name()) {
				continue
			}
			found = true
			text, err := os.ReadFile(filepath.Join(m.Dir, entry.Name()))
			if err != nil {
				return err
			}
			name := strings.TrimSpace(m.Path + " " + m.Version)
			fmt.Fprintf(output, "\n%s\n%s: %s\n\n%s\n", strings.Repeat("=", 80), name, entry.Name(), bytes.TrimSpace(tidy(text)))
		}
		if !found {
			return fmt.Errorf("%s %s has no licence in %s", m.Path, m.Version, m.Dir)
		}
	}
	return nil
}

// tidy has lines end as everywhere else here.
func tidy(text []byte) []byte {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \t\f\r")
	}
	return []byte(strings.Join(lines, "\n"))
}
