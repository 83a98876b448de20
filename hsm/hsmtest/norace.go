//go:build !race

package hsmtest

const raceDetector = false
