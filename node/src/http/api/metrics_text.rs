//! `/metrics`: what is counted as it happens, and what is only looked at when somebody asks.
//!
//! Gauges that would be wrong a moment later anyway (members, hints that wait) are set at each scrape; nobody pays for
//! them in between. Every name is listed in `docs/metrics.md`.

use super::{Api, reply};
use crate::http::body::ReplyBody;
use crate::node::Node;
use crate::store::{Family, Store, StoreError};
use crate::world::World;
use http::Response;
use metrics::{counter, gauge};
use ring::members::Status;
use std::sync::atomic::Ordering;

/// What Prometheus expects of the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

/// The answer to a scrape.
pub(super) fn scrape<W: World>(api: &Api<W>) -> Result<Response<ReplyBody>, StoreError> {
    // The recorder has to be there before the first gauge is set.
    crate::http::metrics::install();
    set_hints(&api.node);
    set_members(&api.node);
    let node = &api.node;
    counter!("cartwheel_read_repairs_total").absolute(node.read_repairs.load(Ordering::Relaxed));
    set_aae(node);
    set_reaped(node);
    gauge!("cartwheel_gaps").set(node.gaps.count() as f64);
    gauge!("cartwheel_behind").set(f64::from(u8::from(node.past.is_behind())));
    counter!("cartwheel_identity_conflicts_total").absolute(node.past.namesakes());
    counter!("cartwheel_sifted_total").absolute(node.sifting.looked_at.load(Ordering::Relaxed));
    counter!("cartwheel_sift_replaced_total").absolute(node.sifting.replaced.load(Ordering::Relaxed));
    counter!("cartwheel_set_aside_total").absolute(node.sifting.set_aside.load(Ordering::Relaxed));
    let ahead = node.lock_clock().ahead_of(node.world.wall(), node.now());
    gauge!("cartwheel_clock_ahead_seconds").set(ahead as f64 / 1e6);
    counter!("cartwheel_expired_records_total").absolute(node.expired.load(Ordering::Relaxed));
    gauge!("cartwheel_requests_in_flight").set(node.in_flight.load(Ordering::Relaxed) as f64);
    gauge!("cartwheel_uptime_seconds").set((node.now() - api.started).as_secs_f64());
    gauge!("cartwheel_records_estimated").set(node.store.estimate_keys(Family::Records) as f64);
    gauge!("cartwheel_disk_full").set(f64::from(u8::from(node.crowded.load(Ordering::Relaxed))));
    gauge!("cartwheel_disk_bytes").set(node.store.disk_bytes() as f64);
    Ok(reply::typed(crate::http::metrics::render().into_bytes(), TEXT_FORMAT))
}

fn set_hints<W: World>(node: &Node<W>) {
    let hints = node.lock_hints();
    let waiting: u64 = hints.targets().into_iter().map(|target| hints.of_target(target).rows).sum();
    gauge!("cartwheel_hints_waiting").set(waiting as f64);
    gauge!("cartwheel_hints_bytes").set(hints.bytes().0 as f64);
    counter!("cartwheel_hints_dropped_total").absolute(hints.dropped);
    counter!("cartwheel_hints_written_total").absolute(node.hints_written.load(Ordering::Relaxed));
    counter!("cartwheel_hints_delivered_total").absolute(node.hints_delivered.load(Ordering::Relaxed));
}

fn set_aae<W: World>(node: &Node<W>) {
    if let Some(age) = node.oldest_unverified() {
        gauge!("cartwheel_aae_oldest_unverified_seconds").set(age.as_secs_f64());
    }
    let aae = node.lock_aae();
    counter!("cartwheel_aae_exchanges_total").absolute(aae.exchanges);
    counter!("cartwheel_aae_differences_total").absolute(aae.differences);
    counter!("cartwheel_aae_repairs_total").absolute(aae.repairs);
    counter!("cartwheel_aae_bytes_total").absolute(aae.bytes);
    counter!("cartwheel_scrub_records_total").absolute(aae.scrubbed);
    counter!("cartwheel_scrub_healed_total").absolute(aae.healed);
    counter!("cartwheel_scrub_leaves_mended_total").absolute(aae.mended);
}

fn set_reaped<W: World>(node: &Node<W>) {
    let reaped = *node.lock_reaped();
    gauge!("cartwheel_tombstones").set(reaped.held as f64);
    counter!("cartwheel_reaped_total").absolute(reaped.reaped);
    counter!("cartwheel_reap_rounds_total").absolute(reaped.rounds);
    for (reason, count) in reaped.reasons() {
        gauge!("cartwheel_reap_waiting", "reason" => reason).set(count as f64);
    }
}

fn set_members<W: World>(node: &Node<W>) {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    for status in [Status::Joining, Status::Up, Status::Leaving] {
        let count = snapshot.view.living().filter(|(_, member)| member.status == status).count();
        gauge!("cartwheel_members", "status" => status.name()).set(count as f64);
    }
    let doubted = snapshot.view.living().filter(|(id, _)| doubted.contains(id)).count();
    gauge!("cartwheel_members_doubted").set(doubted as f64);
    gauge!("cartwheel_ring_version").set(snapshot.table.name().counter as f64);
}
