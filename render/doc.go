// Package render turns Services into the nftables tables that provide them.
//
// Skeleton is the constant part of the tables, PartOf the part that one Service owns: the same input gives the
// same output. Ruleset holds the fragments of all Services and says what has to change when one of them does, at a
// cost that does not grow with the others. Describe reads tables back.
//
// The package is pure: no I/O, no clock, no log, nothing but the standard library and package nft. Choices are
// returned with their reasons.
package render
