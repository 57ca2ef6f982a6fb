package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

// TestBackupAndRestore: a backup is made under load, has all that was answered before it, and brings it back; the device,
// which has gone on, gets there too.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	directory := t.TempDir()
	file, backup := filepath.Join(directory, "decree.db"), filepath.Join(directory, "decree.backup")
	flags := []string{"-storage-dsn", file}
	nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
	s := beside(t, nano, flags)
	device := nano.NewDevice(t)
	require.NoError(t, device.Enroll(ctx))
	device.Run(ctx)
	s.putTest("d.1", "first")
	s.addToSet("set", "d.1")
	s.assign(device.ID(), "set")
	s.waitInSync(device.ID())
	first := s.token(device.ID())

	// Somebody goes on changing things.
	writing, stopWriting := context.WithCancel(ctx)
	written := make(chan int)
	go func() {
		n := 0
		for ; writing.Err() == nil; n++ {
			s.do(http.MethodPut, "/v1/declarations", declarationJSON(fmt.Sprintf("load.%d", n),
				"com.apple.configuration.management.test", `{"Echo":"load"}`))
		}
		written <- n
	}()
	s.eventually(func() bool { return s.count(`SELECT COUNT(*) FROM declarations`) > 50 }, "load")
	before := s.count(`SELECT COUNT(*) FROM declarations`)
	_, _, err := runCommand(t, nil, append([]string{"backup", backup}, flags...)...)
	require.NoError(t, err)
	stopWriting()
	<-written
	info, err := os.Stat(backup)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	output, _, err := runCommand(t, nil, "check", "-storage-dsn", backup)
	require.NoError(t, err, output)
	_, _, err = runCommand(t, nil, append([]string{"backup", backup}, flags...)...)
	require.ErrorContains(t, err, "already", "nothing is overwritten")

	// The device gets something that the backup knows nothing of.
	s.putTest("d.1", "second")
	s.waitFanouts()
	s.eventually(func() bool {
		return s.token(device.ID()) != first && device.DeclarationsToken() == s.token(device.ID())
	},
		"the second")
	s.waitInSync(device.ID())

	restore := append([]string{"restore", "-force", backup}, flags...)
	_, _, err = runCommand(t, nil, restore...)
	require.ErrorContains(t, err, "stop it first", "the server runs")
	s.check()
	s.stop()
	require.NoError(t, s.database.Close())
	_, _, err = runCommand(t, nil, append([]string{"restore", backup}, flags...)...)
	require.ErrorContains(t, err, "-force", "the database holds something")
	output, _, err = runCommand(t, nil, restore...)
	require.NoError(t, err, output)
	s.check()
	names, err := filepath.Glob(filepath.Join(directory, "*"))
	require.NoError(t, err)
	hidden, err := filepath.Glob(filepath.Join(directory, ".*"))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{file, backup}, append(names, hidden...), "nothing is left lying about")

	s.start()
	nano.SetDM(s.url + "/")
	s.database = openDatabase(t, &config{storage: "sqlite", storageDSN: file})
	require.GreaterOrEqual(t, s.count(`SELECT COUNT(*) FROM declarations`), before, "all that was answered before the backup")
	require.Equal(t, first, s.token(device.ID()))
	s.eventually(func() bool { return device.DeclarationsToken() == first }, "the device is told what it should have again")
	s.waitInSync(device.ID())
	s.check()
}

// TestRestoreRefuses: what is no sound backup does not take a database's place.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	file, backup := filepath.Join(directory, "decree.db"), filepath.Join(directory, "decree.backup")
	s := startDecree(t, "-storage-dsn", file)
	s.putTest("d.1", "first")
	s.stop()
	require.NoError(t, s.database.Close())
	_, _, err := runCommand(t, nil, "backup", "-storage-dsn", file, backup)
	require.NoError(t, err)
	content, err := os.ReadFile(backup)
	require.NoError(t, err)
	require.NoError(t, os.Remove(file))

	restore := func(text string) error {
		damaged := filepath.Join(t.TempDir(), "damaged")
		require.NoError(t, os.WriteFile(damaged, []byte(text), 0o600))
		_, _, err := runCommand(t, nil, "restore", damaged, "-storage-dsn", file)
		require.NoFileExists(t, file)
		return err
	}
	require.Error(t, restore("no database"))
	require.Error(t, restore(string(content[:len(content)/2])))
	require.Error(t, restore(""))
	_, _, err = runCommand(t, nil, "restore", filepath.Join(directory, "missing"), "-storage-dsn", file)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, _, err = runCommand(t, nil, "restore", "-storage-dsn", file)
	require.ErrorContains(t, err, "name of a file")
	_, _, err = runCommand(t, nil, "backup", "-storage-dsn", file, backup, "surplus")
	require.ErrorContains(t, err, "surplus")

	// What a server that was killed has left is not mixed with it.
	for _, suffix := range []string{"-wal", "-shm"} {
		require.NoError(t, os.WriteFile(file+suffix, content[:4096], 0o600))
	}
	_, _, err = runCommand(t, nil, "restore", backup, "-storage-dsn", file)
	require.NoError(t, err)
	require.NoFileExists(t, file+"-wal")
	s.check()

	// A database that cannot be read any more is in the way only without -force.
	require.NoError(t, os.WriteFile(file, content[1000:9000], 0o600))
	_, _, err = runCommand(t, nil, "restore", backup, "-storage-dsn", file)
	require.Error(t, err)
	_, _, err = runCommand(t, nil, "restore", backup, "-storage-dsn", file, "-force")
	require.NoError(t, err)
	s.check()
}

// TestBackupOfMySQL: there it says what to use instead.
func TestBackupOfMySQL(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"backup", "restore"} {
		_, _, err := runCommand(t, nil, name, "file", "-storage", "mysql", "-storage-dsn", "decree@/decree")
		require.ErrorContains(t, err, "--single-transaction")
		require.NoFileExists(t, "file")
	}
}

// TestRestoreTellsEverybody: what a backup says of devices is no more known, except that they are there.
func TestRestoreTellsEverybody(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	file, backup := filepath.Join(directory, "decree.db"), filepath.Join(directory, "decree.backup")
	s := startDecree(t, "-storage-dsn", file)
	checkedStory(s)
	s.assign("HAS-NOTHING", "empty")
	s.stop()
	_, err := s.database.Exec(`UPDATE enrollments SET left_at = CASE WHEN id = '` + checkedOther + `' THEN 1 END, notify_at = NULL`)
	require.NoError(t, err)
	require.NoError(t, s.database.Close())
	_, _, err = runCommand(t, nil, "backup", "-storage-dsn", file, backup)
	require.NoError(t, err)
	output, _, err := runCommand(t, nil, "restore", "-storage-dsn", file, "-force", backup)
	require.NoError(t, err, output)
	s.check()
	restored := openDatabase(t, &config{storage: "sqlite", storageDSN: file})
	count := func(where string) (n int) {
		require.NoError(t, restored.QueryRow(`SELECT COUNT(*) FROM enrollments WHERE `+where).Scan(&n))
		return n
	}
	require.Equal(t, 3, count(`synced_token IS NULL AND fetched_token IS NULL AND asked_token IS NULL AND lease_id IS NULL`))
	require.Equal(t, 1, count(`id = '`+checkedDevice+`' AND out_of_sync = 1 AND notify_at IS NOT NULL AND command_sent_at IS NOT NULL`))
	require.Equal(t, 1, count(`id = '`+checkedOther+`' AND notify_at IS NULL`), "it has left")
	var told int
	require.NoError(t, restored.QueryRow(`SELECT COUNT(*) FROM changes WHERE key_name = 'decree restore' AND action = 'restore'
		AND reached = 2 AND waiting = 0`).Scan(&told))
	require.Equal(t, 1, told, "the log of changes tells of it")
	require.Equal(t, 1, count(`id = 'HAS-NOTHING' AND out_of_sync = 0 AND command_sent_at IS NULL AND notify_at > `+
		fmt.Sprint(time.Now().Add(-time.Hour).UnixMicro())))
}

var sqlBlock = regexp.MustCompile("(?s)```sql\n(UPDATE .*?)```")

// TestDocumentedRestoreOfMySQL runs the statements of the operations guide, which do what decree restore does.
func TestDocumentedRestoreOfMySQL(t *testing.T) {
	t.Parallel()
	s := startDecree(t, databases()[1].flags(t)...)
	checkedStory(s)
	s.stop()
	match := sqlBlock.FindStringSubmatch(section(t, readDocument(t, "operations.md"), "## Backups"))
	require.NotNil(t, match)
	for statement := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(match[1]), ";"), ";\n") {
		_, err := s.database.Exec(statement)
		require.NoError(t, err, statement)
	}
	s.check()
	require.Equal(t, 1, s.count(`SELECT COUNT(*) FROM enrollments WHERE id = '`+checkedDevice+`' AND out_of_sync = 1
		AND notify_at IS NOT NULL AND command_sent_at IS NOT NULL AND synced_token IS NULL AND fetched_token IS NULL`))
	require.Equal(t, 1, s.count(`SELECT COUNT(*) FROM changes WHERE key_name = 'decree restore' AND reached = 2`))
}
