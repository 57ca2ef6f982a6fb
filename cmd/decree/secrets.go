package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/micromdm/nanolib/envflag"
)

// secretFlags are the flags whose values can be read from files, so that they are in no list of processes and no
// environment.
var secretFlags = []string{
	"api", "enqueue-key", "webhook-hmac-key", "dm-verify-hmac-key", "dm-sign-hmac-key", "event-hmac-key", "storage-dsn",
	"key", "from-mysql",
}

// fileSuffix makes the variable of a secret the one with the name of its file.
const fileSuffix = "_FILE"

// variableOf is the environment variable of a flag.
func variableOf(name string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// parseFlags sets flags from the arguments and, where those do not, from the environment and the files that it names.
// Those in withoutVariable can be arguments only. A variable that is empty is not given: in a compose file, ${NAME:-} is.
func parseFlags(ctx context.Context, flags *flag.FlagSet, args, environ []string, withoutVariable ...string) error {
	environ, err := readSecrets(ctx, flags, environ)
	if err != nil {
		return err
	}
	environ = slices.DeleteFunc(environ, func(entry string) bool {
		name, value, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, environmentPrefix) && value == ""
	})
	if err := checkVariables(flags, environ, withoutVariable); err != nil {
		return err
	}
	return envflag.ParseFlagSet(flags, args, environmentPrefix, environ, withoutVariable)
}

// checkVariables sets the flags to what the environment says, as envflag does, and tells which variable is wrong, and how.
func checkVariables(flags *flag.FlagSet, environ, withoutVariable []string) error {
	values := valuesOf(environ)
	var errs []error
	flags.VisitAll(func(f *flag.Flag) {
		variable := variableOf(f.Name)
		value, given := values[variable]
		if !given || slices.Contains(withoutVariable, f.Name) {
			return
		}
		if err := f.Value.Set(value); err != nil {
			if !slices.Contains(secretFlags, f.Name) {
				variable = fmt.Sprintf("%s=%q", variable, value)
			}
			errs = append(errs, fmt.Errorf("%s: -%s cannot be that: %w", variable, f.Name, err))
		}
	})
	return errors.Join(errs...)
}

// valuesOf returns the values of the variables of an environment.
func valuesOf(environ []string) map[string]string {
	values := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		values[name] = value
	}
	return values
}

// readSecrets returns the environment with the secrets that are in files added to it.
func readSecrets(ctx context.Context, flags *flag.FlagSet, environ []string) ([]string, error) {
	values := valuesOf(environ)
	environ = slices.Clone(environ)
	for _, name := range secretFlags {
		secret := flags.Lookup(name)
		if secret == nil {
			continue
		}
		variable := variableOf(name)
		fileVariable := variable + fileSuffix
		secret.Usage += fmt.Sprintf(" [%s: file with it]", fileVariable)
		file := values[fileVariable]
		if file == "" {
			continue
		}
		if values[variable] != "" {
			return nil, fmt.Errorf("%s and %s are both given: one of them is enough", variable, fileVariable)
		}
		value, err := readSecret(ctx, file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", fileVariable, err)
		}
		environ = append(environ, variable+"="+value)
	}
	return environ, nil
}

// readSecret returns what is in a file, without the line break that editors put at its end. It can be a pipe, as in
// DECREE_API_FILE=<(pass show decree), and nobody may ever write to that: it is read until the context ends.
func readSecret(ctx context.Context, file string) (string, error) {
	var content []byte
	read := make(chan error, 1)
	go func() {
		var err error
		content, err = os.ReadFile(file) // #nosec G304 -- the operator names it
		read <- err
	}()
	select {
	case err := <-read:
		if err != nil {
			return "", err
		}
	case <-ctx.Done():
		return "", fmt.Errorf("%s was not read to its end: %w", file, context.Cause(ctx))
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if secret == "" {
		return "", errors.New(file + " is empty")
	}
	return secret, nil
}
