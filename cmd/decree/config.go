package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// environmentPrefix comes before the names of flags in the environment.
const environmentPrefix = "DECREE_"

const defaultListen = ":9002"

// config is what the flags and the environment say.
type config struct {
	listen         listenConfig
	tls            tlsConfig
	apiKey         string
	apiKeys        string
	enqueueURL     string
	enqueueKey     string
	microMDM       bool
	notify         notifyConfig
	webhookKey     string
	events         eventConfig
	keepReports    int
	keepErrors     int
	keepChanges    int
	keepVersions   int
	enrollSets     string
	checkoutSets   string
	dmVerifyKey    string
	dmSignKey      string
	storage        string
	storageDSN     string
	storageOptions string
	corsOrigin     string
	dumpStatus     string
	shard          bool
	logFormat      string
	debug          bool
	printVersion   bool
	pace           pace
}

// pace is how fast time goes by. No flag sets it: it is for tests in which a day is to be over in minutes. Then the
// clock goes faster by which the database, and the MDM's events, tell when something was; how long a request may take,
// and how often there is a look at something, stays as it is. The zero value is the real time.
type pace struct {
	speed int
	clock func() time.Time // nil: everybody's own
}

// listenConfig is where the server listens. What has no address of its own is served at the first.
type listenConfig struct{ address, ddm, metrics string }

// tlsConfig is where the certificate for all of it is.
type tlsConfig struct{ certificate, key string }

// notifyConfig is how devices are told.
type notifyConfig struct {
	interval, delay      time.Duration
	rate, batch, workers int
}

func (c *notifyConfig) validate() error {
	switch {
	case c.interval < time.Minute:
		return errors.New("-notify-interval must be a minute or more")
	case c.delay < 0:
		return errors.New("-notify-delay must not be negative")
	case c.rate < 0:
		return errors.New("-notify-rate must not be negative")
	case c.batch < 1 || c.batch > 1000:
		return errors.New("-notify-batch must be from 1 to 1000")
	case c.workers < 1 || c.workers > 100:
		return errors.New("-notify-workers must be from 1 to 100")
	}
	return nil
}

// eventConfig is what becomes of the log of events.
type eventConfig struct {
	keep     int
	url, key string
}

func (c *eventConfig) validate() error {
	switch u, err := url.Parse(c.url); {
	case c.keep < 1:
		return errors.New("-keep-events must be 1 or more")
	case c.url == "" && c.key != "":
		return errors.New("-event-hmac-key signs what is posted to -event-url, which there is not")
	case c.url == "":
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "":
		// It may have a secret in it, which is not for the log.
		return errors.New("-event-url is not like https://example.com/decree/events")
	}
	return nil
}

// flagSet returns the flags, which write into c.
func (c *config) flagSet(output io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("decree", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.Usage = func() {
		fmt.Fprint(output, "Usage: decree -api KEY [flags]\n       decree COMMAND [flags]\n\nCommands:\n")
		for _, command := range commands {
			fmt.Fprintf(output, "  %-8s %s\n", command.name, command.summary)
		}
		fmt.Fprint(output, "\nFlags of the server:\n")
		flags.PrintDefaults()
	}
	flags.StringVar(&c.listen.address, "listen", defaultListen, "HTTP listen address")
	flags.StringVar(&c.listen.ddm, "listen-ddm", "",
		"another address, for the MDM: the device endpoints and /webhook are there, and not at -listen")
	flags.StringVar(&c.listen.metrics, "listen-metrics", "", "another address, for /metrics, which is then not at -listen")
	flags.StringVar(&c.tls.certificate, "tls-cert", "",
		"file with the certificate for HTTPS and those between it and the root, PEM; read again when it changes")
	flags.StringVar(&c.tls.key, "tls-key", "", "file with the private key of -tls-cert, PEM")
	flags.StringVar(&c.apiKey, "api", "", "API key, the password of requests to /v1 (this or -api-keys is required)")
	flags.StringVar(&c.apiKeys, "api-keys", "",
		"file with more API keys, NAME ROLE KEY a line, where ROLE is read or write; read again when it changes")
	flags.StringVar(&c.enqueueURL, "enqueue", "",
		"URL of NanoMDM's enqueue endpoint, such as http://127.0.0.1:9000/v1/enqueue/; without it no device is told")
	flags.StringVar(&c.enqueueKey, "enqueue-key", "", "NanoMDM's API key")
	flags.BoolVar(&c.microMDM, "micromdm", false,
		"the MDM is MicroMDM; -enqueue is then like https://micromdm.example.com/v1/commands/")
	flags.DurationVar(&c.notify.interval, "notify-interval", 6*time.Hour,
		"after how long a device that was told and is not in sync is told again; it grows to a day")
	flags.IntVar(&c.notify.rate, "notify-rate", 0, "how many enrollments this server tells in a second at most; 0: as many as the MDM takes")
	flags.IntVar(&c.notify.batch, "notify-batch", 100, "how many enrollments are told with one request at most")
	flags.IntVar(&c.notify.workers, "notify-workers", 4, "how many requests to the MDM are under way at once at most")
	flags.DurationVar(&c.notify.delay, "notify-delay", 500*time.Millisecond, "how long a change waits for more changes")
	flags.StringVar(&c.webhookKey, "webhook-hmac-key", "",
		"key that events at /webhook must be signed with: NanoMDM's -webhook-hmac-key")
	flags.IntVar(&c.keepReports, "keep-reports", 20, "how many status reports are kept of an enrollment")
	flags.IntVar(&c.keepErrors, "keep-errors", 50, "how many errors are kept of an enrollment")
	flags.IntVar(&c.keepVersions, "keep-versions", 20,
		"how many earlier versions are kept of a declaration, besides those that devices may still fetch")
	flags.IntVar(&c.keepChanges, "keep-changes", 100_000,
		"how many changes are kept for GET /v1/changes, and as many again of those that are about one enrollment")
	flags.IntVar(&c.events.keep, "keep-events", 100_000, "how many events are kept for GET /v1/events and -event-url")
	flags.StringVar(&c.events.url, "event-url", "", "URL that events are posted to")
	flags.StringVar(&c.events.key, "event-hmac-key", "", "key that what is posted to -event-url is signed with")
	flags.StringVar(&c.enrollSets, "enroll-sets", "",
		"sets for an enrollment that enrolls and has none, separated by commas; TYPE=SET is for one type of enrollment, "+
			"such as Device=base,User=base-user")
	flags.StringVar(&c.checkoutSets, "checkout-sets", "keep", "what an enrollment that leaves does with its sets: keep or remove")
	flags.StringVar(&c.dmVerifyKey, "dm-verify-hmac-key", "",
		"key that requests of devices must be signed with: NanoMDM's -dm-send-hmac-key")
	flags.StringVar(&c.dmSignKey, "dm-sign-hmac-key", "",
		"key that answers to devices are signed with: NanoMDM's -dm-recv-hmac-key")
	c.storageFlags(flags)
	flags.StringVar(&c.storageOptions, "storage-options", "",
		"options of the storage, NAME=VALUE separated by commas: delete_errors=N and delete_status_reports=N, "+
			"the same as -keep-errors and -keep-reports, before which they go, with KMFDDM's names")
	flags.StringVar(&c.corsOrigin, "cors-origin", "", "origin that browsers may use the API from")
	flags.StringVar(&c.dumpStatus, "dump-status", "", "file to append every status report to, - for standard output")
	flags.BoolVar(&c.shard, "shard", false,
		"give every enrollment a management properties declaration with its shard number, 0 to 100")
	flags.StringVar(&c.logFormat, "log-format", "text", "form of the log: text or json")
	flags.BoolVar(&c.debug, "debug", false, "log more")
	flags.BoolVar(&c.printVersion, "version", false, "print the version and exit")
	return flags
}

// storageFlags are those of everything that opens the database.
func (c *config) storageFlags(flags *flag.FlagSet) {
	flags.StringVar(&c.storage, "storage", "sqlite", "kind of database: sqlite or mysql (which is for MariaDB too)")
	flags.StringVar(&c.storageDSN, "storage-dsn", "",
		"the database: a file for sqlite (decree.db by default), user:password@tcp(host:3306)/name for mysql")
}

// parseConfig reads flags and environment. What is wrong with them is in the error; the usage goes to output.
func parseConfig(ctx context.Context, args, environ []string, output io.Writer) (*config, error) {
	c := &config{}
	flags := c.flagSet(output)
	if err := parseFlags(ctx, flags, args, environ, "version"); err != nil {
		return nil, err
	}
	if c.printVersion {
		return c, nil
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if c.apiKey == "" && c.apiKeys == "" {
		return nil, errors.New("there is no API key: start with -api KEY or DECREE_API=KEY, " +
			"where KEY is a long random secret of your own, such as one that `openssl rand -hex 32` prints")
	}
	if c.listen.address == "" {
		return nil, errors.New("-listen is empty, which would be any port of all addresses: the usual one is " + defaultListen)
	}
	if (c.tls.certificate == "") != (c.tls.key == "") {
		return nil, errors.New("-tls-cert and -tls-key go together: a certificate and its private key")
	}
	if (c.enqueueURL == "") != (c.enqueueKey == "") {
		return nil, errors.New("-enqueue and -enqueue-key go together: NanoMDM's URL and its API key")
	}
	if c.microMDM && c.enqueueURL == "" {
		return nil, errors.New("-micromdm needs -enqueue and -enqueue-key")
	}
	if err := c.notify.validate(); err != nil {
		return nil, err
	}
	if c.keepReports < 1 || c.keepErrors < 1 || c.keepChanges < 1 {
		return nil, errors.New("-keep-reports, -keep-errors and -keep-changes must be 1 or more")
	}
	if c.keepVersions < 0 {
		return nil, errors.New("-keep-versions must not be negative")
	}
	if err := c.events.validate(); err != nil {
		return nil, err
	}
	if c.logFormat != "text" && c.logFormat != "json" {
		return nil, fmt.Errorf("-log-format %q is neither text nor json", c.logFormat)
	}
	if c.checkoutSets != "keep" && c.checkoutSets != "remove" {
		return nil, fmt.Errorf("-checkout-sets %q is neither keep nor remove", c.checkoutSets)
	}
	if err := validateOrigin(c.corsOrigin); err != nil {
		return nil, err
	}
	if _, err := parseEnrollSets(c.enrollSets); err != nil {
		return nil, err
	}
	// A device can have anything signed with this key.
	if c.webhookKey != "" && c.webhookKey == c.dmVerifyKey {
		return nil, errors.New("-webhook-hmac-key and -dm-verify-hmac-key must differ")
	}
	if err := c.validateStorage(); err != nil {
		return nil, err
	}
	_, err := c.storeOptions()
	return c, err
}

// validateStorage checks what storageFlags has read, and fills in the default.
func (c *config) validateStorage() error {
	switch c.storage {
	case "sqlite":
		if c.storageDSN == "" {
			c.storageDSN = "decree.db"
		}
	case "mysql":
		if c.storageDSN == "" {
			return errors.New("-storage mysql needs -storage-dsn, such as user:password@tcp(127.0.0.1:3306)/decree")
		}
	default:
		return fmt.Errorf("-storage %q is neither sqlite nor mysql", c.storage)
	}
	return nil
}

// validateOrigin checks -cors-origin: browsers compare it letter by letter, and what is no origin is that of no page.
func validateOrigin(origin string) error {
	if origin == "" || origin == "*" {
		return nil
	}
	if http.NewCrossOriginProtection().AddTrustedOrigin(origin) != nil || strings.ToLower(origin) != origin {
		return fmt.Errorf("-cors-origin %q is neither * nor like https://console.example.com, in lower case and without a "+
			"slash at its end", origin)
	}
	return nil
}

// storeOptions reads -storage-options.
func (c *config) storeOptions() (sqlstore.Options, error) {
	options := sqlstore.Options{
		KeepReports: c.keepReports, KeepErrors: c.keepErrors, KeepEvents: c.events.keep, KeepChanges: c.keepChanges,
		KeepVersions: c.keepVersions, NotifyDelay: c.notify.delay,
	}
	// There 0 means the default.
	if c.notify.delay == 0 {
		options.NotifyDelay = -1
	}
	if c.keepVersions == 0 {
		options.KeepVersions = -1
	}
	if c.storageOptions == "" {
		return options, nil
	}
	for _, option := range strings.Split(c.storageOptions, ",") {
		name, value, _ := strings.Cut(option, "=")
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 {
			return options, fmt.Errorf("-storage-options: %q is not of the form NAME=N with a positive N", option)
		}
		switch name {
		case "delete_errors":
			options.KeepErrors = n
		case "delete_status_reports":
			options.KeepReports = n
		default:
			return options, fmt.Errorf("-storage-options: there is no option %q", name)
		}
	}
	return options, nil
}

// enrollSets are the sets for enrollments that enroll, by type; those for all are under the empty one.
type enrollSets map[string][]string

// enrollmentTypes are the types of NanoMDM (package mdm, EnrollType). A mistyped one would never be met.
var enrollmentTypes = []string{"Device", "User", "User Enrollment (Device)", "User Enrollment", "Shared iPad"}

// parseEnrollSets reads -enroll-sets.
func parseEnrollSets(text string) (enrollSets, error) {
	sets := enrollSets{}
	if text == "" {
		return sets, nil
	}
	for _, entry := range strings.Split(text, ",") {
		enrollmentType, set, typed := strings.Cut(entry, "=")
		if !typed {
			enrollmentType, set = "", entry
		} else if enrollmentType == "" {
			return nil, fmt.Errorf("-enroll-sets: %q names no type", entry)
		} else if !slices.Contains(enrollmentTypes, enrollmentType) {
			return nil, fmt.Errorf("-enroll-sets: %q is no type of enrollment: there are %s",
				enrollmentType, strings.Join(enrollmentTypes, ", "))
		}
		if problem := ddm.ValidateName(fmt.Sprintf("-enroll-sets: the set in %q", entry), set); problem != nil {
			return nil, errors.New(problem.String())
		}
		sets[enrollmentType] = append(sets[enrollmentType], set)
	}
	return sets, nil
}

// of returns the sets for an enrollment of a type.
func (s enrollSets) of(enrollmentType string) []string {
	sets := slices.Clone(s[""])
	if enrollmentType != "" {
		sets = append(sets, s[enrollmentType]...)
	}
	slices.Sort(sets)
	return slices.Compact(sets)
}
