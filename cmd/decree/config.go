package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/micromdm/nanolib/envflag"

	"github.com/decree-ddm/decree/storage/sqlstore"
)

// environmentPrefix comes before the names of flags in the environment.
const environmentPrefix = "DECREE_"

// config is what the flags and the environment say.
type config struct {
	listen         string
	apiKey         string
	enqueueURL     string
	enqueueKey     string
	storage        string
	storageDSN     string
	storageOptions string
	corsOrigin     string
	dumpStatus     string
	shard          bool
	debug          bool
	printVersion   bool
}

// flagSet returns the flags, which write into c.
func (c *config) flagSet(output io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("decree", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&c.listen, "listen", ":9002", "HTTP listen address")
	flags.StringVar(&c.apiKey, "api", "", "API key, the password of every request to /v1 (required)")
	flags.StringVar(&c.enqueueURL, "enqueue", "",
		"URL of NanoMDM's enqueue endpoint, such as http://127.0.0.1:9000/v1/enqueue/; without it no device is told")
	flags.StringVar(&c.enqueueKey, "enqueue-key", "", "NanoMDM's API key")
	flags.StringVar(&c.storage, "storage", "sqlite", "kind of database: sqlite or mysql (which is for MariaDB too)")
	flags.StringVar(&c.storageDSN, "storage-dsn", "",
		"the database: a file for sqlite (decree.db by default), user:password@tcp(host:3306)/name for mysql")
	flags.StringVar(&c.storageOptions, "storage-options", "",
		"options of the storage, NAME=VALUE separated by commas: delete_errors=N and delete_status_reports=N, "+
			"how many of each are kept for an enrollment")
	flags.StringVar(&c.corsOrigin, "cors-origin", "", "origin that browsers may use the API from")
	flags.StringVar(&c.dumpStatus, "dump-status", "", "file to append every status report to, - for standard output")
	flags.BoolVar(&c.shard, "shard", false,
		"give every enrollment a management properties declaration with its shard number, 0 to 100")
	flags.BoolVar(&c.debug, "debug", false, "log more")
	flags.BoolVar(&c.printVersion, "version", false, "print the version and exit")
	return flags
}

// parseConfig reads flags and environment. What is wrong with them is in the error; the usage goes to output.
func parseConfig(args, environ []string, output io.Writer) (*config, error) {
	c := &config{}
	flags := c.flagSet(output)
	if err := envflag.ParseFlagSet(flags, args, environmentPrefix, environ, []string{"version"}); err != nil {
		return nil, err
	}
	if c.printVersion {
		return c, nil
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if c.apiKey == "" {
		return nil, errors.New("there is no API key: start with -api KEY or DECREE_API=KEY, " +
			"where KEY is a long random secret of your own, such as one that `openssl rand -hex 32` prints")
	}
	if (c.enqueueURL == "") != (c.enqueueKey == "") {
		return nil, errors.New("-enqueue and -enqueue-key go together: NanoMDM's URL and its API key")
	}
	switch c.storage {
	case "sqlite":
		if c.storageDSN == "" {
			c.storageDSN = "decree.db"
		}
	case "mysql":
		if c.storageDSN == "" {
			return nil, errors.New("-storage mysql needs -storage-dsn, such as user:password@tcp(127.0.0.1:3306)/decree")
		}
	default:
		return nil, fmt.Errorf("-storage %q is neither sqlite nor mysql", c.storage)
	}
	_, err := c.storeOptions()
	return c, err
}

// storeOptions reads -storage-options.
func (c *config) storeOptions() (sqlstore.Options, error) {
	var options sqlstore.Options
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
