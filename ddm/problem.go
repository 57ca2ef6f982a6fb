package ddm

import (
	"fmt"
	"strings"
)

// maxProblems bounds how many problems and warnings one body can cause. More
// help nobody, and an answer must not be larger than its question.
const maxProblems = 32

// Problem is one thing that is wrong with what somebody sent.
type Problem struct {
	// Field is where, as a dotted path such as "Identifier" or
	// "Payload.StandardConfigurations[2]"; empty for the body as a whole.
	Field string
	// Message is what, such as "must not be empty".
	Message string
}

// String returns "Field: Message", or the message alone without a field.
func (p Problem) String() string {
	if p.Field == "" {
		return p.Message
	}
	return p.Field + ": " + p.Message
}

// InvalidError says that what somebody sent cannot be taken, and why. It is
// the sender's fault, and its text can be shown to the sender.
type InvalidError struct {
	// Problems has at least one element.
	Problems []Problem
}

// Error returns all problems, separated by semicolons.
func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		texts[i] = problem.String()
	}
	return strings.Join(texts, "; ")
}

// invalid returns an InvalidError with one problem.
func invalid(field, format string, args ...any) error {
	return &InvalidError{Problems: []Problem{{Field: field, Message: fmt.Sprintf(format, args...)}}}
}

// problemList collects problems up to maxProblems and counts the others.
type problemList struct {
	problems []Problem
	omitted  int
}

// full reports whether further problems are only counted.
func (l *problemList) full() bool {
	return len(l.problems) == maxProblems
}

// add notes a problem.
func (l *problemList) add(field, format string, args ...any) {
	if l.full() {
		l.omitted++
		return
	}
	l.problems = append(l.problems, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// addProblem notes a problem unless it is nil.
func (l *problemList) addProblem(problem *Problem) {
	if problem != nil {
		l.add(problem.Field, "%s", problem.Message)
	}
}

// addError notes the problems of an InvalidError, which every error of the
// scanner is.
func (l *problemList) addError(err error) {
	if err, ok := err.(*InvalidError); ok {
		for i := range err.Problems {
			l.addProblem(&err.Problems[i])
		}
	}
}

// err returns an InvalidError with what was collected, or nil for nothing.
func (l *problemList) err() error {
	if len(l.problems) == 0 {
		return nil
	}
	problems := l.problems
	if l.omitted > 0 {
		problems = append(problems, Problem{Message: fmt.Sprintf("and %d more problems", l.omitted)})
	}
	return &InvalidError{Problems: problems}
}
