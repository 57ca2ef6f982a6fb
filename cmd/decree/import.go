package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/schollz/progressbar/v3"

	"github.com/decree-ddm/decree/storage"
	"github.com/decree-ddm/decree/storage/importer"
	"github.com/decree-ddm/decree/storage/importer/kmfddm"
	"github.com/decree-ddm/decree/storage/importer/remote"
)

// exitNotAllTaken is the exit code of an import that has come to its end and left out something.
const exitNotAllTaken = 3

// importConfig is what the flags and the environment say about an import.
type importConfig struct {
	config      // of the database to import into
	fromURL     string
	key         string
	fromMySQL   string
	enrollments string
	overwrite   bool
	noNotify    bool
	dryRun      bool
}

func parseImportConfig(ctx context.Context, args, environ []string, output io.Writer) (*importConfig, error) {
	c := &importConfig{}
	c.notify.delay = 500 * time.Millisecond
	flags := flag.NewFlagSet("decree import", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&c.fromURL, "from-url", "",
		"address of the server to import from, such as http://127.0.0.1:9002: KMFDDM, Decree, or another with this API")
	flags.StringVar(&c.key, "key", "", "API key of that server")
	flags.StringVar(&c.fromMySQL, "from-mysql", "",
		"MySQL database of KMFDDM to import from: user:password@tcp(host:3306)/name")
	flags.StringVar(&c.enrollments, "enrollments", "",
		"file with the ids of the enrollments whose sets are asked for at -from-url, one a line, - for standard input; "+
			"needed where that server does not list them, as KMFDDM does not")
	flags.BoolVar(&c.overwrite, "overwrite", false, "replace declarations also where their content here may have been made here, or was touched here")
	flags.BoolVar(&c.noNotify, "nonotify", false, "have no device told because of the import")
	flags.BoolVar(&c.dryRun, "dry-run", false, "say what would be taken, and take nothing")
	c.storageFlags(flags)
	if err := parseFlags(ctx, flags, args, environ); err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case (c.fromURL == "") == (c.fromMySQL == ""):
		return nil, errors.New("give one of -from-url and -from-mysql: see decree import -help")
	case c.fromURL != "" && c.key == "":
		return nil, errors.New("-from-url needs -key or DECREE_KEY, the API key of that server")
	case c.fromURL == "" && c.enrollments != "":
		return nil, errors.New("-enrollments is for -from-url: a database lists its enrollments")
	}
	return c, c.validateStorage()
}

// runImport takes over what another server has.
func runImport(ctx context.Context, args, environ []string, stdout, stderr io.Writer) (err error) {
	config, err := parseImportConfig(ctx, args, environ, stderr)
	if err != nil {
		return err
	}
	// The source first: with a mistyped one, no database is made.
	source, closeSource, err := openSource(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	store, err := openStore(ctx, &config.config, slog.New(slog.NewTextHandler(stderr, nil)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	changeID, err := uuid.NewV7()
	if err != nil {
		return err
	}
	output := newImportOutput(stdout, stderr)
	summary, err := importer.Run(ctx, source, store, storage.ImportOptions{
		ChangeOptions: storage.ChangeOptions{
			ChangeID: changeID.String(), Held: config.noNotify, By: storage.ByImport,
		},
		Overwrite: config.overwrite,
		DryRun:    config.dryRun,
	}, output)
	output.end()
	if printErr := printSummary(stdout, summary, config.dryRun); err == nil {
		err = printErr
	}
	named, withSets := 0, 0
	if server, isServer := source.(*remote.Source); isServer && config.enrollments != "" {
		named, withSets = server.Named()
		if _, printErr := fmt.Fprintf(stdout, "ids given: %d, with sets at the source: %d\n", named, withSets); err == nil {
			err = printErr
		}
	}
	switch refused := summary.Refused(); {
	case err != nil && config.dryRun:
		return err
	case err != nil:
		return fmt.Errorf("%w\nWhat was taken until then stays. Run the command again to go on", err)
	case refused > 0:
		return &exitError{fmt.Errorf("not everything was taken: %d listed above", refused), exitNotAllTaken}
	case named > 0 && withSets == 0:
		return &exitError{errors.New("not everything was taken: none of the ids given has sets at the source"), exitNotAllTaken}
	}
	return nil
}

// openSource opens what is imported from.
func openSource(ctx context.Context, config *importConfig) (importer.Source, func() error, error) {
	if config.fromMySQL != "" {
		source, err := kmfddm.Open(ctx, config.fromMySQL)
		if err != nil {
			return nil, nil, fmt.Errorf("-from-mysql: %w", err)
		}
		return source, source.Close, nil
	}
	var enrollments io.Reader
	closeFile := func() error { return nil }
	switch config.enrollments {
	case "":
	case "-":
		enrollments = os.Stdin
	default:
		file, err := os.Open(config.enrollments) // #nosec G703 -- the operator names it
		if err != nil {
			return nil, nil, fmt.Errorf("-enrollments: %w", err)
		}
		enrollments, closeFile = file, file.Close
	}
	source, err := remote.Open(ctx, config.fromURL, config.key, enrollments)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("-from-url: %w", err), closeFile())
	}
	return source, closeFile, nil
}

// printSummary says how much was taken.
func printSummary(stdout io.Writer, summary importer.Summary, dryRun bool) error {
	taken, refused := "taken", "not taken"
	if dryRun {
		taken, refused = "to take", "not to take"
	}
	for _, kind := range importer.Kinds {
		counts := summary[kind]
		if _, err := fmt.Fprintf(stdout, "%s: %d %s, %d here already, %d %s\n",
			kind, counts.Taken, taken, counts.Present, counts.Refused, refused); err != nil {
			return err
		}
	}
	return nil
}

// importOutput lists what is not taken on standard output, and shows how far the import is on standard error if that is a
// terminal.
type importOutput struct {
	stdout io.Writer
	stderr io.Writer
	bar    *progressbar.ProgressBar // nil without a terminal, and before the first rows
	shown  bool
}

func newImportOutput(stdout, stderr io.Writer) *importOutput {
	return &importOutput{stdout: stdout, stderr: stderr, shown: isTerminal(stderr)}
}

func isTerminal(writer io.Writer) bool {
	file, isFile := writer.(*os.File)
	if !isFile {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Began implements importer.Observer.
func (o *importOutput) Began(kind importer.Kind, rows int) {
	o.end()
	if !o.shown || rows == 0 {
		return
	}
	o.bar = progressbar.NewOptions(rows, // -1 makes it count without an end
		progressbar.OptionSetWriter(o.stderr),
		progressbar.OptionSetDescription(kind.String()),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetItsString("rows"),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetRenderBlankState(true),
	)
}

// Advanced implements importer.Observer.
func (o *importOutput) Advanced(rows int) {
	if o.bar != nil {
		_ = o.bar.Add(rows) // more than there were said to be, or a terminal that is gone: the import goes on
	}
}

// Refused implements importer.Observer.
func (o *importOutput) Refused(refusal importer.Refusal) {
	if o.bar != nil {
		_ = o.bar.Clear()
	}
	fmt.Fprintf(o.stdout, "not taken: %s\n", refusal)
}

// end ends the bar of the rows so far.
func (o *importOutput) end() {
	if o.bar != nil {
		_ = o.bar.Exit()
		fmt.Fprintln(o.stderr)
		o.bar = nil
	}
}
