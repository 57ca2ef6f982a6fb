// Package ddm is the protocol of Apple's Declarative Device Management as
// Decree speaks it: declarations with their canonical form and tokens, the
// composition of an enrollment's declarations, and the status reports that
// devices send.
//
// It is pure: the same input always gives the same output, on every replica.
// It does no input or output, reads no clock and knows no database. What it
// hashes into tokens must never change, since a changed token makes every
// device of the fleet synchronize again.
//
// JSON is read by a strict scanner of the package's own. The standard
// library's decoder takes the last of two equal keys without a word, matches
// the names of fields regardless of case, and replaces invalid UTF-8 and lone
// surrogates. A server that has to hand a payload on with every value as given
// can afford none of these.
package ddm
