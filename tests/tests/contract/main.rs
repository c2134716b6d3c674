//! The contract, tried from outside.
//!
//! | file | what it holds the cluster to |
//! | --- | --- |
//! | `objects` | one value: put, get, head, delete, post, preconditions, receipts |
//! | `siblings` | several: what a context covers, what a delete takes, how many siblings may be |
//! | `keys` | any octets as a key, any octets as a value, and the limits of both |
//! | `errors` | every wrong request is answered with a problem document and changes nothing |
//! | `hostile` | bytes that are not even a request, on both ports, and silence |
//! | `buckets` | settings and listings |
//! | `carts` | the cart |
//! | `faults` | what still works while nodes are dead, paused, or were all killed |
//! | `fallbacks` | who stands in for dead owners, and what its word is worth |
//! | `bounds` | what would grow with a client's bad will, and does not |
//! | `plans` | changing the cluster: staged, looked at, committed, refused |
//! | `membership` | who is a member: nodes that come together, move, or were never meant to be one |
//! | `sides` | members changed on two sides that do not hear each other, and by who is left after most are gone |
//! | `returning` | members that are gone, and what comes back in their place |
//! | `moving` | clients at work while members come and go |
//! | `handover` | how partitions get to their new owners |
//! | `revived` | deletes that stay forgotten, whatever old disk comes along |
//! | `forgotten` | a data directory that was put back, and nobody who could tell it |
//! | `rollback` | a data directory that is older than its node, or runs twice |
//! | `delivery` | hints go out in little memory, and clients hardly feel it |
//! | `aae` | replicas become equal without a read, and nothing equal is repaired |
//! | `found` | a difference that no hint knows of is found soon |
//! | `damage` | files that somebody has damaged, or trees that are gone |
//! | `calendars` | writes by a node whose calendar is wrong |
//! | `expiry` | values that live for a time, whatever clocks, restarts and transfers do |
//! | `reaping` | deletes that stay deleted, and tombstones that go away |
//! | `network` | links that are silent, slow and lossy, between real processes |
//! | `process` | start, stop, configuration, `cartwheel dev`, size |
//! | `cli` | the commands and their exit codes |
//! | `workloads` | what clients do all day, and whether every promise was kept |
//!
//! One program instead of one per file: linking ten costs a minute on a small machine. Where the contract is
//! silent the checks take every sensible answer; where it names something, they take only that.
#![allow(missing_docs, reason = "a test program has no readers of its documentation")]
#![allow(clippy::disallowed_methods, reason = "these tests run real processes on the real clock")]

mod aae;
mod bounds;
mod buckets;
mod calendars;
mod carts;
mod cli;
mod damage;
mod delivery;
mod errors;
mod expiry;
mod fallbacks;
mod faults;
mod forgotten;
mod found;
mod handover;
mod harness;
mod hints;
mod hostile;
mod keys;
mod membership;
mod moving;
mod network;
mod objects;
mod passing;
mod plans;
mod process;
mod reaping;
mod returning;
mod revived;
mod rollback;
mod siblings;
mod sides;
mod steps;
mod support;
mod unreadable;
mod workloads;
