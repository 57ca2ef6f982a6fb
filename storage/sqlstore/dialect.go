package sqlstore

// Dialect is what differs between databases.
type Dialect struct {
	// SchemaVersion is the version of the newest migration.
	SchemaVersion int64
	// Now is an expression for the database's clock: microseconds since 1970, an integer.
	Now string
	// RandomBelow is an expression for a random integer from 0 to below its one parameter.
	RandomBelow string
	// Lock and LockSkip go to the end of a SELECT that locks the rows it returns: waiting for others, or passing over
	// rows that others hold. Empty where writers take turns anyway.
	Lock, LockSkip string
	// ReadBy goes behind the table of a SELECT that must read it by an index, given the index's name or Primary: where the
	// planner can prefer another one that reads much more. Nothing where the database takes no such advice.
	ReadBy func(index string) string
	// KeepExisting returns what comes behind the rows of an INSERT that leaves existing rows alone, given the column of
	// the key.
	KeepExisting func(key string) string
	// Upsert returns what comes between the rows of an INSERT and the assignments to the existing row, given the
	// columns of the key.
	Upsert func(key string) string
	// Inserted refers, in these assignments, to the value that would have been inserted into a column.
	Inserted func(column string) string
	// AfterIncrement goes behind a column that an earlier assignment of the same UPDATE has incremented, to mean its
	// new value: nothing where assignments see those before them, + 1 where all see the old row.
	AfterIncrement string
	// SelfCheck is a query that has the database check itself, and answers with texts: "ok", or what is wrong. Empty where
	// there is none that servers can work beside.
	SelfCheck string
	// Damaged reports whether an error says that the database's files are damaged. Nil where there is no SelfCheck.
	Damaged func(error) bool
	// Trouble says what is wrong with the database, by an error of the driver's.
	Trouble func(error) Trouble
	// Again reports whether an error means that the transaction lost against another and is to be tried again.
	Again func(error) bool
	// OneWriter says that only one transaction can write at a time, so that they take turns here, with those that
	// somebody waits for going first.
	OneWriter bool
}

// Primary names a table's primary key as an index.
const Primary = "PRIMARY"
