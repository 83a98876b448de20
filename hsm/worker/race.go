//go:build race

package worker

// digestRounds is less under the race detector, which makes them ten times as
// slow: most of what the tests of package hsm took.
const digestRounds = 1_000
