//go:build !race

package worker

// digestRounds makes guessing a PIN from its digest slow. The digest of a PIN
// that the token accepts is erased at once.
const digestRounds = 100_000
