//! Every bound of the node, each with its arithmetic.
//!
//! Whatever grows with load, with a peer's good will or with a stranger's bad will has its ceiling here. Reaching one
//! is an answer (refused, closed, dropped), never a silent wait. Sums are for one peer or connection unless they say
//! otherwise; a cluster of ten nodes multiplies them by nine.

use std::time::Duration;

/// The largest peer frame. A value has at most 64 MiB, and three sides of a partition may each have written one; 8 MiB more
/// hold their clocks, the key and the header. At the default limit a record has at most 3 × 16 MiB.
pub const FRAME_BYTES_MAX: usize = 200 << 20;

/// The largest message of the handshake. The longest is a welcome: two ids, a proof and a host name, below 512 bytes.
pub const HELLO_BYTES_MAX: usize = 4096;

/// The longest address that a peer may advertise: a host name of 253 bytes, a colon, a port of 5 digits.
pub const ADDRESS_BYTES_MAX: usize = 259;

/// How long the accepting side waits for a whole handshake: two round trips, with room for two lost packets.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that may be in their handshake at once. 64 × 4 KiB = 256 KiB for all strangers together.
pub const HELLOS_MAX: usize = 64;

/// Connections that one node serves. Each peer has one, and a second for a moment after a break: 500 peers fit.
pub const CONNECTIONS_MAX: usize = 1024;

/// How long dialing and its handshake may take together. Three within the 3 s in which a dead node is noticed.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The first pause after a failed dial; it doubles with each further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// The longest pause between dials: a peer that comes back is found within a second.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Calls that may wait for one peer at once. At 1 KiB each that is 1 MiB; [`IN_FLIGHT_BYTES_MAX`] bounds large ones.
pub const IN_FLIGHT_MAX: usize = 1024;

/// Bytes that may wait to be written to one peer: one value of the largest size, or 16 of the default limit of 4 MiB.
/// A body larger than this goes out when nothing else waits, so the true ceiling is [`FRAME_BYTES_MAX`].
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// Frames that may wait in front of one connection: the calls, and as many more that nobody awaits.
pub const OUTBOX_MAX: usize = 2 * IN_FLIGHT_MAX;

/// Frames written in one go. 256 × 16 KiB copied bodies = 4 MiB of buffer at worst; larger bodies are not copied.
pub const WRITE_BATCH_MAX: usize = 256;

/// Bodies up to this size are copied beside their header, so that many leave in one piece; larger ones go as they are.
pub const COPY_BYTES_MAX: usize = 16 << 10;

/// What a connection reads at once. 1,024 connections × 16 KiB = 16 MiB when all of them are busy.
pub const READ_BYTES: usize = 16 << 10;

/// Requests of one connection that are handled at once; further ones stay in the socket. As many as a peer may send.
pub const SERVE_IN_FLIGHT_MAX: usize = IN_FLIGHT_MAX;

/// Bytes of requests of one connection that are handled at once; one frame may overshoot: 64 + 200 = 264 MiB at worst.
pub const SERVE_IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// Bytes of answers of one connection that may wait to be written; when full, its handlers rest until the peer reads.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection that said nothing for this long is asked for a sign of life.
pub const PING_EVERY: Duration = Duration::from_secs(5);

/// How often a peer that owes an answer and says nothing is looked at, and asked for a sign of life.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A peer from which nothing has come for this long after a question is asked last among those that may be asked.
pub const LATE_AFTER: Duration = LOOK_EVERY;

/// How often a write that waits looks who is late by now.
pub const LOOK_WHO_IS_LATE_EVERY: Duration = Duration::from_millis(50);

/// A node that sleeps for so much longer than it meant to has stood still itself, and holds no silence of that time against anybody.
pub const STALL_MIN: Duration = LOOK_EVERY;

/// A peer from which nothing has come for this long after a question is handed a client's write only after other owners.
pub const HAND_OVER_WITHIN: Duration = Duration::from_millis(50);

/// A peer from which nothing has come for this long after a question is doubted: as long as SWIM takes to notice a dead one.
/// Eight signs of life were asked for by then, so a link that loses some of them makes nobody mute.
pub const MUTE_AFTER: Duration = Duration::from_secs(2);

/// After so many silent [`PING_EVERY`] the connection is closed at the next look: 15 to 20 s of silence.
pub const SILENT_PINGS_MAX: u32 = 3;

/// How long a peer may leave us unable to write a single byte: as long as it may be silent.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(15);

/// How old a one-way message may get in a queue before it is not worth sending. Gossip repeats itself every second.
pub const TELL_DEADLINE: Duration = Duration::from_secs(2);

/// Jobs that wait for the lane. A job holds a value at most: 4,096 × 4 MiB is more than there is, but the HTTP side
/// admits only so many bytes of bodies at a time, and peers as many as `SERVE_IN_FLIGHT_BYTES_MAX` each.
pub const LANE_QUEUE_JOBS_MAX: usize = 4096;

/// Jobs in one batch: enough to share a sync among all that came in during the last one, and not so many that the first
/// of them waits for a second.
pub const LANE_BATCH_JOBS_MAX: usize = 512;

/// How much longer the forwarding node waits than the coordinator may take, so that the coordinator's own word wins.
pub const FORWARD_GRACE: Duration = Duration::from_millis(500);

/// Times that a request is sent again to a node that acts by newer tables: two changes in one round trip are rare, and a
/// third waits for the next request.
pub const REPLANS_MAX: u32 = 3;

/// Times that a record is sent again to a replica whose connection broke before its answer. It may be there already, and storing it
/// twice is storing it once. A network that resets connections breaks the next one as well now and then; a third try is left to the
/// hint.
pub const RESENDS_MAX: u32 = 1;

/// Writes that one process has handed to this node, and of which the answers are remembered in case that it asks again: four times as many
/// as may be under way at once ([`IN_FLIGHT_MAX`]), so that one whose connection broke is mostly still known when it comes again behind
/// all that were handed over meanwhile. An answer has no record and typically 400 bytes, which is 1.6 MiB for each process.
pub const FORWARDED_KEPT_MAX: usize = 4 * IN_FLIGHT_MAX;

/// Processes whose writes are remembered: as many as a large cluster has nodes.
pub const FORWARDERS_MAX: usize = 256;

/// For how long they are remembered after the last of them: as long as whoever waits for one may ask again, and that be under way.
pub const FORWARDERS_FORGOTTEN_AFTER: Duration =
    Duration::from_millis(TIMEOUT_MAX_MS).saturating_add(FORWARD_GRACE).saturating_add(MESSAGE_LIFE_MAX);

/// One read in so many asks every owner, so that copies outside the quorum are found stale too.
pub const READ_ALL_ONE_IN: u32 = 16;

/// How long one replica may take to explain a key.
pub const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Keys in one page: 1,000 × 1 KiB = 1 MiB from each node.
pub const KEYS_PAGE_MAX: usize = 1000;

/// Bytes of records that a listing reads at a time, and one record more.
pub const LIST_SCAN_BYTES: usize = 4 << 20;

/// How long one node may take for a page of keys.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows in one page of a transfer.
pub const PULL_ROWS_MAX: usize = 1000;

/// Bytes in one page of a transfer, and one record more.
pub const PULL_BYTES_MAX: usize = 4 << 20;

/// How long a page of a transfer may take.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(10);

/// Trees that a node fetches at a time at most, fewer while clients feel it: 4 × 4 MiB of rows in memory.
pub const GAINS_AT_ONCE: usize = 4;

/// Bytes of whole pages that a node fetches in a second: half a gigabit.
pub const GAIN_BYTES_PER_SECOND: u64 = 64 << 20;

/// Rows that are merged at once: what the lane puts into one batch, and half of its room for others.
pub const PULL_MERGES: usize = LANE_BATCH_JOBS_MAX / 2;

/// How often the next step of a change is tried when nothing was heard.
pub const SHAPE_EVERY: Duration = Duration::from_secs(1);

/// Records that are looked at for the size of an average one.
pub const SIZE_SAMPLE_ROWS: usize = 32;

/// How long a node may take to say how far it is.
pub const SIZES_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a node looks for records that it does not own.
pub const SURPLUS_EVERY: Duration = Duration::from_secs(2);

/// Records that are handed on at once: 256 names of 1.3 KiB, and 4 MiB of records.
pub const LACKS_ROWS_MAX: usize = 256;

/// How long an owner may take to say what it lacks, or to store it.
pub const LACKS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a node whose disk may be behind goes on to compare its copies.
pub const SIFT_EVERY: Duration = Duration::from_millis(500);

/// Copies that it compares one by one at a time. With those of two others 8 × 3 × 4 MiB are in memory by default.
pub const SIFT_AT_ONCE: usize = 8;

/// Copies of keys that it does not own, read at a time: 256 names of 1.3 KiB, and 4 MiB of records.
pub const SIFT_ROWS: usize = 256;

/// Names of set aside copies in one page: 1,000 × 1 KiB, and up to 4 MiB of records read for them.
pub const SET_ASIDE_ROWS: usize = 1000;

/// How often the view is compared with somebody's.
pub const GOSSIP_EVERY: Duration = Duration::from_millis(500);

/// How many nodes are told of a change at once; the rest hear it from them.
pub const GOSSIP_FANOUT: usize = 16;

/// Comparisons of views in a row with one node, while they go on to change: what is left the next round tells.
pub const GOSSIP_ROUNDS_MAX: usize = 3;

/// How long a question waits for the tables by which its asker acts and that are not known here, and how seldom somebody who does
/// not say is asked for them again.
pub const CATCH_UP_MAX: Duration = Duration::from_millis(250);

/// How long a comparison of views may take.
pub const GOSSIP_TIMEOUT: Duration = Duration::from_secs(2);

/// How often hints are looked through when nothing has changed.
pub const HINTS_EVERY: Duration = Duration::from_secs(1);

/// Hints read at a time, without their records: 1,024 names of up to 1.3 KiB.
pub const HINT_SCAN_ROWS: usize = 1024;

/// Bytes of hints' names read at a time: 1,024 × 1.3 KiB.
pub const HINT_SCAN_BYTES: usize = 2 << 20;

/// Nodes to which hints are delivered at once; further ones wait for their turn, and who has waited longest goes first. Each
/// holds a page of names (2 MiB), one delivery twice while it is put together (up to twice [`HINT_CREDIT_IDLE`], or one larger
/// record), and the record after it. 4 × (2 + 2 × 2 + 1) = 28 MiB for values of 1 MiB, 4 × (2 + 2 × 4 + 4) = 56 MiB for 4 MiB.
pub const HINT_TARGETS_AT_ONCE: usize = 4;

/// Hints of one node on their way to others than their target. They share what [`HINT_CREDIT_IDLE`] allows one delivery.
pub const HINTS_IN_FLIGHT: usize = 64;

/// Records that a node takes in one delivery: twice as many names as are read at a time.
pub const HINT_ROWS_MAX: usize = 2 * HINT_SCAN_ROWS;

/// Bytes of records that a node asks for at a time when nobody waits for it: some 1,000 of 1 KiB share a sync. A delivery
/// ends with the record that reaches them; a larger one goes alone. No sender puts more together, whatever it is asked for.
pub const HINT_CREDIT_IDLE: u32 = 1 << 20;

/// Bytes that it asks for while clients or other nodes wait for it: 64 records of 1 KiB, a few milliseconds of its lane.
pub const HINT_CREDIT_BUSY: u32 = 64 << 10;

/// How long it then wants to be left alone: 64 KiB in 20 ms and what they take are some 3 MiB in a second from each keeper, so
/// 100,000 hints of 1 KiB from two take 20 s.
pub const HINT_PAUSE_BUSY: Duration = Duration::from_millis(20);

/// The same while clients wait longer than in calm times: those 100,000 then take 28 s. With half of both pauses the slowest of a
/// hundred requests took more than twice as long as before.
pub const HINT_PAUSE_FELT: Duration = Duration::from_millis(34);

/// How often the room on the disk is looked at: 200 MB a second fill 100 MB meanwhile.
pub const ROOM_EVERY: Duration = Duration::from_millis(500);

/// Percent of the disk that are left to the engine.
pub const ROOM_KEPT_PERCENT: u64 = 5;

/// Of a large disk: the memory tables of all families (6 × 16 MiB), twice, and the tables that are merged at a time.
pub const ROOM_KEPT_MAX: u64 = 512 << 20;

/// How long after the last request a node counts as busy.
pub const BUSY_FOR: Duration = Duration::from_secs(1);

/// The first pause after a delivery that failed; it doubles with each further one.
pub const HINT_BACKOFF_MIN: Duration = Duration::from_secs(1);

/// The longest pause between tries.
pub const HINT_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long one delivery may take: as long as any message, so that what a slow link took once it can take again.
pub const HINT_TIMEOUT: Duration = MESSAGE_LIFE_MAX;

/// Failure detector messages that wait: a few a second for each member; more are late anyway.
pub const SWIM_QUEUE_MAX: usize = 1024;

/// How long a joiner waits for a seed's answer.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a joiner waits before it asks its seeds again.
pub const JOIN_AGAIN: Duration = Duration::from_millis(200);

/// How long one waits that was refused: nothing changes until a person has changed it, and whoever refuses says so each time.
pub const JOIN_REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// How long a stopping node waits for what is in flight.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How often members that are not heard of are greeted: what a restarted node waits to be seen.
pub const SWIM_ANNOUNCE_EVERY: Duration = Duration::from_millis(500);

/// After a start nobody is doubted for so long: the others need a moment to be heard.
pub const SWIM_GRACE: Duration = Duration::from_secs(2);

/// The longest that a client is not read after it was refused, and told by `429` to wait for a second. A refusal costs 25 µs of a core:
/// 1,024 connections that are refused twice a second take 5 %.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Bytes of request bodies that clients may have here at once; a body of unknown length counts as the largest.
/// 256 MiB are 64 values of the default limit of 4 MiB, or 4 of the ceiling.
pub const BODY_BYTES_IN_FLIGHT_MAX: u64 = 256 << 20;

/// Bytes of answers that clients may leave unread here at once: as many as of their bodies. What they don't fetch in time
/// is closed by the listener; until then further large answers are refused, and small ones are not.
pub const REPLY_BYTES_IN_FLIGHT_MAX: u64 = 256 << 20;

/// Answers up to this size are not counted: 1,024 connections × 16 KiB = 16 MiB.
pub const REPLY_BYTES_SMALL: usize = 16 << 10;

/// Long polls at once. Each reads its key every [`POLL_PAUSE_MAX`]: 256 × 4 = 1,024 reads a second at worst.
pub const POLLERS_MAX: usize = 256;

/// The first pause of a long poll, or of a read that waits for its context; each is half as long again as the last.
pub const POLL_PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest pause between two reads of a long poll: so late is its answer at worst.
pub const POLL_PAUSE_MAX: Duration = Duration::from_millis(250);

/// The longest `wait_ms`.
pub const WAIT_MAX_MS: u64 = 300_000;

/// What a long poll waits that does not say how long.
pub const WAIT_DEFAULT_MS: u64 = 30_000;

/// The longest `timeout_ms`.
pub const TIMEOUT_MAX_MS: u64 = 300_000;

/// Pages of [`KEYS_PAGE_MAX`] keys that one reversed listing reads: a million keys, and 1 MiB of them in memory.
pub const REVERSE_PAGES_MAX: usize = 1000;

/// Pages that one answer looks through for visible keys before it gives a short page: 64,000 deleted keys in a row.
pub const LIST_ROUNDS_MAX: usize = 64;

/// How long a start waits for what the others remember of it: a round trip, and room for a dial that fails slowly.
pub const GREET_TIMEOUT: Duration = Duration::from_millis(1500);

/// Starts of a directory that it remembers as its own, and lives of its name that one start jumps over: 20 KiB.
pub const LIVES_MAX: usize = 1024;

/// So many of a directory's starts are named by whoever asks to be let into a cluster, the newest of them.
pub const TOLD_LIVES_MAX: usize = 64;

/// How long a start waits before it asks those again that did not answer.
pub const GREET_AGAIN: Duration = Duration::from_millis(50);

/// How often a node has the others remember how far it has come: an image of its disk is known for old if it is older.
/// One synced write here and one of each member a minute; 2^32 leases last for 8,000 years.
pub const RAISE_EVERY: Duration = Duration::from_secs(60);

/// Leaves that the lane reads at a time to build a tree: 4,096 × some 60 bytes, a few milliseconds between two batches.
pub const LEAF_PAGE_ROWS: usize = 4096;

/// How often trees are compared with one other node's: each of ten is met every ten seconds.
pub const AAE_EVERY: Duration = Duration::from_secs(1);

/// How far apart the looks are of which two must show a difference: a replication takes milliseconds, or fails.
pub const AAE_APART: Duration = Duration::from_secs(2);

/// How long one question about trees may take.
pub const AAE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a record may be on its way between two owners that repair it: as long as any message, so that what a slow link took once it
/// can take again.
pub const RECORD_TIMEOUT: Duration = MESSAGE_LIFE_MAX;

/// Trees whose roots are asked for at once: 4,096 × 16 bytes of answer.
pub const AAE_ROOTS_MAX: usize = 4096;

/// Slots whose keys are listed at once.
pub const AAE_SLOTS_MAX: usize = 16;

/// Leaves in one answer: 1,024 × 1.3 KiB at worst.
pub const AAE_LEAVES_MAX: usize = 1024;

/// Pages of leaves that are read for [`AAE_SLOTS_MAX`] slots: a million leaves of a partition of 64 million keys.
pub const AAE_PAGES_MAX: usize = 1024;

/// Keys that are repaired at once at most, fewer while clients feel it.
pub const AAE_REPAIRS_MAX: usize = 32;

/// Bytes of records that repairs move in a second: a quarter of a gigabit.
pub const AAE_BYTES_PER_SECOND: u64 = 32 << 20;

/// Times that the owners of a partition are compared with each other by one repair: a difference that goes through two of
/// them is gone after two, and the third sees nothing.
pub const REPAIR_PASSES_MAX: usize = 4;

/// Repairs that run at once. They share what [`AAE_BYTES_PER_SECOND`] allows each.
pub const REPAIRS_RUNNING_MAX: usize = 4;

/// Repairs that are remembered after their end.
pub const REPAIRS_KEPT_MAX: usize = 64;

/// How long one partition's repair may take: 100,000 records of 8 KiB at [`AAE_BYTES_PER_SECOND`], and as long again.
pub const REPAIR_TIMEOUT: Duration = Duration::from_secs(60);

/// Keys whose copies were spoiled and have been replaced by what came first. With names of a hundred bytes, 2 MB in memory; what is
/// spoiled beyond that takes no writes here until some of them are mended.
pub const GAPS_MAX: usize = 10_000;

/// How many of them are looked at each [`SCRUB_EVERY`], and as many suspects: each asks every other owner once.
pub const GAPS_AT_ONCE: usize = 64;

/// Of them at a time: one owner that does not answer makes 64 of them take 40 s, and not five minutes. 8 × 3 × 4 MiB of records.
pub const MENDS_AT_ONCE: usize = 8;

/// Keys whose record somebody could not read. The scrub's own round finds those beyond.
pub const SUSPECTS_MAX: usize = 1024;

/// How often some records are looked at whether they are whole.
pub const SCRUB_EVERY: Duration = Duration::from_secs(1);

/// Records that are looked at at a time: 5 µs each, less than three thousandths of a core. A million take half an hour. Of some
/// ten thousand each is looked at again within a minute, [`SCRUB_REST`] included.
pub const SCRUB_PAGE_ROWS: usize = 512;

/// Bytes of records after which such a look pauses: a gigabyte takes 16 minutes, a terabyte twelve days.
pub const SCRUB_PAGE_BYTES: usize = 1 << 20;

/// How long after all of them the first is looked at again. Every round steps over what was deleted and not compacted away
/// yet: a million keys are 0.3 s, a fiftieth of that.
pub const SCRUB_REST: Duration = Duration::from_secs(15);

/// How long a request may be under way. Whatever is older when it arrives is dropped: what it brings may have been deleted,
/// and the deletion forgotten, since it was sent. As long as the slowest repair waits for its answer.
pub const MESSAGE_LIFE_MAX: Duration = Duration::from_secs(10);

/// A request whose deadline has passed and that was under way for so long ends its connection. Half of the shortest deadline
/// that a request begins with (2 s): less than that, a busy moment costs its requests and not the connection.
pub const LATE_MIN: Duration = Duration::from_secs(1);

/// Dead records that are asked about at once: 256 names of 1.3 KiB.
pub const REAP_PAGE_ROWS: usize = 256;

/// How long a node may take to say whether dead records may go: it syncs its disk for that.
pub const REAP_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest pause between two rounds of asking; else a quarter of the grace.
pub const REAP_EVERY_MIN: Duration = Duration::from_millis(250);

/// The longest pause between two rounds of asking: the gauge of tombstones is so old at worst.
pub const REAP_EVERY_MAX: Duration = Duration::from_secs(15);

/// Dead keys that one node remembers agreements about: 65,536 × some 200 bytes. More wait for those to go.
pub const REAP_KEYS_MAX: usize = 65_536;

/// Rounds, beyond twice the grace, in which a node asks about the same dead keys if it can't ask about all: one that finds
/// agreement, one that finds it quiet, and two for a round that takes longer than it should.
pub const REAP_STAY_ROUNDS: u32 = 4;

/// How often all others are asked what their clocks say, until the node is sure.
pub const CLOCK_EVERY: Duration = Duration::from_millis(500);

/// How often some others are asked after that: two oscillators that differ by 100 millionths part by 0.2 ms meanwhile.
pub const CLOCK_SURE_EVERY: Duration = Duration::from_secs(2);

/// Whom a node asks that is sure already: each of ten is heard once in six seconds.
pub const CLOCK_FANOUT: usize = 3;

/// How long the answer may take: one that took longer says little about when it was given.
pub const CLOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the clock is kept for the next start while there are values that expire: one synced batch more.
pub const CLOCK_KEEP_EVERY: Duration = Duration::from_secs(5);

/// How often values are looked for whose time is over: so long their space is held beyond it.
pub const EXPIRY_EVERY: Duration = Duration::from_millis(500);

/// Notes of values that are due, read at a time: 1,024 × 1.3 KiB at worst.
pub const EXPIRY_ROWS: usize = 1024;

/// Keys whose expired values are dropped in one batch. Their records are in memory together: 16 × 4 MiB by default.
pub const EXPIRY_AT_ONCE: usize = 16;
