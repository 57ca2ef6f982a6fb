package sqlstore

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/storage"
)

// StatusSummary implements storage.Fleet.
func (s *Store) StatusSummary(
	ctx context.Context, path string, page storage.Page,
) (list []storage.ValueCount, next string, err error) {
	after, err := hex.DecodeString(page.After)
	if err != nil {
		return nil, "", fmt.Errorf("counting values: the place to go on: %w", err)
	}
	groups, more, err := s.valueGroups(ctx, hashOf([]byte(path))).page(string(after), page.Limit)
	if err != nil {
		return nil, "", fmt.Errorf("counting values: %w", err)
	}
	for _, found := range groups {
		value := storage.ValueCount{Key: hex.EncodeToString([]byte(found.key)), Count: found.count, More: found.more}
		next = value.Key
		value.Value, value.Cut, err = s.readValue(ctx, hashOf([]byte(path)), found.key)
		if errors.Is(err, sql.ErrNoRows) {
			continue // it is gone by now
		}
		if err != nil {
			return nil, "", fmt.Errorf("reading a value: %w", err)
		}
		list = append(list, value)
	}
	if !more {
		next = ""
	}
	return list, next, nil
}

// valueGroups groups the values of a path by their hashes.
func (s *Store) valueGroups(ctx context.Context, path hash) *grouping[string] {
	return &grouping[string]{
		bound: s.options.MaxScanned,
		window: func(after string, rows, _ int) (groups []group[string], full bool, err error) {
			read := int64(0)
			err = queryRows(ctx, s.read, func(rows *sql.Rows) error {
				var one group[string]
				err := rows.Scan(text{&one.key}, &one.count)
				groups = append(groups, one)
				read += one.count
				return err
			}, `SELECT value_hash, COUNT(*)
				FROM (SELECT value_hash FROM status_values`+s.dialect.ReadBy("status_values_path")+`
					WHERE path_hash = ? AND value_hash > ? ORDER BY value_hash LIMIT ?) counted
				GROUP BY value_hash ORDER BY value_hash`, path[:], []byte(after), rows)
			return groups, read == int64(rows), err
		},
		count: func(key string, bound int) (count int64, err error) {
			err = s.read.QueryRowContext(ctx, `SELECT COUNT(*)
				FROM (SELECT value_hash FROM status_values`+s.dialect.ReadBy("status_values_path")+`
					WHERE path_hash = ? AND value_hash = ? ORDER BY value_hash LIMIT ?) counted`, path[:], []byte(key), bound).
				Scan(&count)
			return count, err
		},
	}
}

// readValue returns the beginning of a value, and whether that is not all of it.
func (s *Store) readValue(ctx context.Context, path hash, key string) (value []byte, cut bool, err error) {
	var length int64
	err = s.read.QueryRowContext(ctx, `SELECT SUBSTR(value, 1, ?), LENGTH(value)
		FROM status_values`+s.dialect.ReadBy("status_values_path")+`
		WHERE path_hash = ? AND value_hash = ? ORDER BY value_hash LIMIT 1`,
		storage.MaxListedValue, path[:], []byte(key)).Scan(&value, &length)
	if err != nil || !bytes.HasPrefix(value, packedMagic) {
		return value, length > storage.MaxListedValue, err
	}
	r, err := gzip.NewReader(bytes.NewReader(value))
	if err != nil {
		return nil, false, err
	}
	// What is packed is longer than this. What is read of it may end anywhere.
	value, err = io.ReadAll(io.LimitReader(r, storage.MaxListedValue))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return value, true, err
}

// packedMagic is what a value begins with that pack has compressed.
var packedMagic = []byte{0x1f, 0x8b}

// Problems implements storage.Fleet.
func (s *Store) Problems(
	ctx context.Context, after storage.ProblemKey, limit int,
) (list []storage.ProblemGroup, next *storage.ProblemKey, err error) {
	groups, more, err := s.problemGroups(ctx).page(after, limit)
	if err != nil {
		return nil, nil, fmt.Errorf("counting problems: %w", err)
	}
	for _, found := range groups {
		problem := storage.ProblemGroup{ProblemKey: found.key, Count: found.count, More: found.more}
		if err := s.readNewest(ctx, &problem); errors.Is(err, sql.ErrNoRows) {
			continue // it is over by now
		} else if err != nil {
			return nil, nil, fmt.Errorf("reading a problem: %w", err)
		}
		list = append(list, problem)
	}
	if more {
		next = &groups[len(groups)-1].key
	}
	return list, next, nil
}

// problemGroups groups problems by code, kind and subject. A place between those three is no one range of the index for
// every planner, so the parts of the index that have a code and a kind in common are found one after the other.
func (s *Store) problemGroups(ctx context.Context) *grouping[storage.ProblemKey] {
	return &grouping[storage.ProblemKey]{
		bound: s.options.MaxScanned,
		window: func(after storage.ProblemKey, rows, wanted int) (
			groups []group[storage.ProblemKey], full bool, err error,
		) {
			for key, more := after, true; more; {
				err = queryRows(ctx, s.read, func(found *sql.Rows) error {
					one := group[storage.ProblemKey]{key: key}
					err := found.Scan(&one.key.Subject, &one.count)
					groups = append(groups, one)
					rows -= int(one.count)
					return err
				}, `SELECT subject, COUNT(*) FROM (SELECT subject FROM problems`+s.dialect.ReadBy("problems_code")+`
						WHERE code = ? AND kind = ? AND subject > ? ORDER BY subject LIMIT ?) counted
					GROUP BY subject ORDER BY subject`, key.Code, key.Kind, key.Subject, rows)
				if err == nil && (rows <= 0 || len(groups) > wanted) {
					return groups, true, nil
				}
				if err == nil {
					key, more, err = s.nextProblems(ctx, key)
				}
				if err != nil {
					return nil, false, err
				}
			}
			return groups, false, nil
		},
		count: func(key storage.ProblemKey, bound int) (count int64, err error) {
			err = s.read.QueryRowContext(ctx, `SELECT COUNT(*)
				FROM (SELECT subject FROM problems`+s.dialect.ReadBy("problems_code")+`
					WHERE code = ? AND kind = ? AND subject = ? ORDER BY received_at LIMIT ?) counted`,
				key.Code, key.Kind, key.Subject, bound).Scan(&count)
			return count, err
		},
	}
}

// nextProblems returns the next code and kind of which there are problems.
func (s *Store) nextProblems(
	ctx context.Context, key storage.ProblemKey,
) (next storage.ProblemKey, found bool, err error) {
	next.Code = key.Code
	err = s.read.QueryRowContext(ctx, `SELECT kind FROM problems`+s.dialect.ReadBy("problems_code")+`
		WHERE code = ? AND kind > ? ORDER BY kind LIMIT 1`, key.Code, key.Kind).Scan(&next.Kind)
	if errors.Is(err, sql.ErrNoRows) {
		err = s.read.QueryRowContext(ctx, `SELECT code, kind FROM problems`+s.dialect.ReadBy("problems_code")+`
			WHERE code > ? ORDER BY code, kind LIMIT 1`, key.Code).Scan(&next.Code, &next.Kind)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return next, false, nil
	}
	return next, err == nil, err
}

// readNewest reads the newest of a group of problems.
func (s *Store) readNewest(ctx context.Context, problem *storage.ProblemGroup) error {
	var serverToken string
	err := s.read.QueryRowContext(ctx, `SELECT enrollment_id, server_token, received_at
		FROM problems`+s.dialect.ReadBy("problems_code")+` WHERE code = ? AND kind = ? AND subject = ?
		ORDER BY received_at DESC LIMIT 1`, problem.Code, problem.Kind, problem.Subject).
		Scan(&problem.EnrollmentID, &serverToken, instant{&problem.ReceivedAt})
	if err != nil {
		return err
	}
	if problem.Kind == problemDeclaration {
		err := s.read.QueryRowContext(ctx, `SELECT CASE WHEN LENGTH(reasons) <= ? THEN reasons END FROM status_declarations
			WHERE enrollment_id = ? AND identifier = ? AND server_token = ?`, storage.MaxListedReasons,
			problem.EnrollmentID, problem.Subject, serverToken).Scan(&problem.Error)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	}
	return queryRows(ctx, s.read, func(rows *sql.Rows) error {
		reported := ddm.StatusError{Path: ddm.PathErrors}
		if err := rows.Scan(&reported.Error); err != nil {
			return err
		}
		if item, code, ok := itemError(&reported); ok && problem.Error == nil &&
			item == problem.Subject && code == problem.Code {
			problem.Error = reported.Error
		}
		return nil
	}, newestItemErrors, problem.EnrollmentID, ddm.PathErrors, storage.MaxListedReasons, s.options.KeepErrors)
}
