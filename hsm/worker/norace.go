//go:build !race

package worker

// digestRounds makes guessing a PIN from its digest slow. The digest is only ever
// kept of a PIN that the token refused.
const digestRounds = 100_000
