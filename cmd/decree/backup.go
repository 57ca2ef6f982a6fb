package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/google/uuid"

	"github.com/decree-ddm/decree/storage/sqlite"
	"github.com/decree-ddm/decree/storage/sqlstore"
)

// fileCommand reads the flags of a command that is about a database and one file, which may stand before or after the
// flags.
func fileCommand(
	ctx context.Context, name string, args, environ []string, stderr io.Writer, more func(*config, *flag.FlagSet),
) (c *config, file string, err error) {
	c = &config{}
	flags := flag.NewFlagSet("decree "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	c.storageFlags(flags)
	more(c, flags)
	if err := parseFlags(ctx, flags, args, environ); err != nil {
		return nil, "", err
	}
	if flags.NArg() > 0 {
		file = flags.Arg(0)
		if err := flags.Parse(flags.Args()[1:]); err != nil {
			return nil, "", err
		}
	}
	if file == "" {
		return nil, "", fmt.Errorf("decree %s needs the name of a file", name)
	}
	if flags.NArg() > 0 {
		return nil, "", fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err := c.validateStorage(); err != nil {
		return nil, "", err
	}
	if c.storage != "sqlite" {
		return nil, "", fmt.Errorf("decree %s is for SQLite: use the tools of the database server, mysqldump or "+
			"mariadb-dump with --single-transaction and mysql or mariadb. docs/operations.md, Backup, tells how, and what to do "+
			"after a restore", name)
	}
	return c, file, nil
}

// runBackup copies the database, as it is at one moment, while a server may use it.
func runBackup(ctx context.Context, args, environ []string, _, stderr io.Writer) error {
	c, file, err := fileCommand(ctx, "backup", args, environ, stderr, func(*config, *flag.FlagSet) {})
	if err != nil {
		return err
	}
	if err := sqlite.Backup(ctx, c.storageDSN, file); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// runRestore puts a backup in the place of the database.
func runRestore(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	force := false
	c, file, err := fileCommand(ctx, "restore", args, environ, stderr, func(c *config, flags *flag.FlagSet) {
		flags.BoolVar(&force, "force", false, "replace a database that holds something, and take a backup with findings")
		flags.BoolVar(&c.shard, "shard", false, "the server is started with -shard")
	})
	if err != nil {
		return err
	}
	changeID, err := uuid.NewV7()
	if err != nil {
		return err
	}
	err = sqlite.Restore(ctx, file, c.storageDSN, sqlite.RestoreOptions{
		Force:    force,
		ChangeID: changeID.String(),
		Check: func(ctx context.Context, store *sqlstore.Store) error {
			err := check(ctx, store, c.shard, stdout, stderr)
			if exitCode(err) == exitFindings && force {
				fmt.Fprintln(stderr, "decree: with -force the backup is taken all the same:", err)
				return nil
			}
			return err
		},
	})
	switch {
	case errors.Is(err, sqlite.ErrInUse):
		return fmt.Errorf("restore: %w: stop it first", err)
	case errors.Is(err, sqlite.ErrNotEmpty):
		return fmt.Errorf("restore: %w: with -force it is replaced, and what it holds is lost", err)
	case err != nil:
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}
