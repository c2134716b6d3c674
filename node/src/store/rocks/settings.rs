//! How RocksDB is set up, each setting with its reason.
//!
//! Two aims pull against each other: an idle node stays below 60 MiB of memory, and the write path keeps its
//! 100,000 puts a second. So buffers are small, caches fill only with what is read, and everything that a crash or a
//! bad disk could make silently wrong is checked.

use crate::store::{FAMILIES, Family};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, DataBlockIndexType,
    LogLevel, Options, WriteBufferManager,
};

const MIB: usize = 1 << 20;

/// Uncompressed blocks of all families. A ceiling that reads fill up to, not a reservation.
const CACHE_BYTES: usize = 64 * MIB;
/// All memory tables together; counted against the cache, so that both never pass [`CACHE_BYTES`] by much.
const WRITE_BUFFERS_BYTES: usize = 32 * MIB;
/// The info logs: 3 × 1 MiB at worst.
const INFO_LOG_BYTES: usize = MIB;
const INFO_LOG_FILES: usize = 3;
/// Open table files. 512 × 64 MiB = 32 GiB of data before a file has to be opened again.
const OPEN_FILES_MAX: i32 = 512;

/// The name of a family on disk.
pub(super) fn name(family: Family) -> &'static str {
    match family {
        Family::Records => "records",
        Family::Leaves => "leaves",
        Family::Hints => "hints",
        Family::Due => "due",
        Family::Meta => "meta",
        Family::Dead => "dead",
    }
}

/// The settings of the database and of each family.
pub(super) fn tuned() -> (Options, Vec<ColumnFamilyDescriptor>) {
    // An entry charge of 0 lets the cache grow its table as it fills.
    let cache = Cache::new_hyper_clock_cache(CACHE_BYTES, 0);
    let mut families: Vec<_> =
        FAMILIES.map(|each| ColumnFamilyDescriptor::new(name(each), family(each, &cache))).into();
    // RocksDB always has a family "default". It stays empty, but with its own default of 64 MiB a write buffer it would
    // set the bar for coming back from a full disk: there must be room for the largest buffer of all families.
    families.push(ColumnFamilyDescriptor::new("default", family(Family::Meta, &cache)));
    (database(&cache), families)
}

fn database(cache: &Cache) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
        WRITE_BUFFERS_BYTES,
        false,
        cache.clone(),
    ));

    // Absolute consistency would refuse to start after any SIGKILL in the middle of an append; anything laxer than
    // point-in-time could skip a batch and keep a later one.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_paranoid_checks(true);
    // A log that is missing as a whole is found out, and not taken for an empty one.
    options.set_track_and_verify_wals_in_manifest(true);
    // Background range syncs may make a newer part of the log durable before an older one.
    options.set_wal_bytes_per_sync(0);
    options.set_manual_wal_flush(false);
    // All families reach their table files together, and a seldom written one never keeps old logs alive.
    options.set_atomic_flush(true);

    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    // Table files trickle out instead of stalling the log's sync behind 64 MiB of dirty pages.
    options.set_bytes_per_sync(MIB as u64);
    // Reading the properties of every file would make the start of a large node slow.
    options.set_skip_stats_update_on_db_open(true);

    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_keep_log_file_num(INFO_LOG_FILES);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn family(family: Family, cache: &Cache) -> Options {
    let mut options = Options::default();
    let (write_buffer, block_bytes) = match family {
        Family::Records => (16 * MIB, 16 << 10),
        Family::Leaves => (4 * MIB, 8 << 10),
        Family::Hints | Family::Due => (4 * MIB, 16 << 10),
        Family::Meta => (MIB, 4 << 10),
        Family::Dead => (MIB, 8 << 10),
    };
    options.set_write_buffer_size(write_buffer);
    options.set_max_write_buffer_number(3);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_block_based_table_factory(&blocks(cache, block_bytes));
    if matches!(family, Family::Hints | Family::Due | Family::Dead) {
        // All three are queues. The deleted head makes every seek slow until it is compacted away.
        options.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
    }
    options
}

fn blocks(cache: &Cache, block_bytes: usize) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(block_bytes);
    blocks.set_format_version(6);
    // 10 bits a key: one in a hundred gets for an absent key reads a block.
    blocks.set_bloom_filter(10.0, false);
    blocks.set_optimize_filters_for_memory(true);
    // Filters and indexes count against the cache, or they would grow with the data without a bound.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    blocks
}
