//! What is done to the fleet at a moment: the hands of the schedule.

use super::operator::Order;
use super::plagues::Deed;
use super::wires::Host;
use super::{Run, converged, fleet::Fleet, people};
use ring::ids::NodeId;
use std::sync::PoisonError;

impl Run<'_> {
    pub(super) fn carry_out(&mut self, deed: Deed) {
        let is_up = |fleet: &Fleet, host: Host| fleet.up().contains(&host);
        self.came.extend(deed.plague().zip(deed.host()));
        match deed {
            Deed::Weather(weather) => {
                self.trace.event(&format!("{weather:?}"));
                self.fleet.wires.set_weather(weather);
            }
            Deed::Cut(from, to) => {
                self.trace.event(&format!("cut {from} → {to}"));
                self.fleet.wires.cut(from, to);
            }
            Deed::Mend(from, to) => {
                self.trace.event(&format!("mend {from} → {to}"));
                self.fleet.wires.mend(from, to);
            }
            Deed::Reset(a, b) => {
                self.trace.event(&format!("reset {a} ↔ {b}"));
                self.fleet.wires.reset(a, b);
            }
            Deed::Down(host, how) if is_up(&self.fleet, host) => {
                self.fleet.take_down(&mut self.sim, host, how);
            }
            Deed::Up(host) if !is_up(&self.fleet, host) => self.fleet.bring_up(&mut self.sim, host),
            Deed::Down(..) | Deed::Up(_) | Deed::Again(_) => {}
            Deed::Calendar(host, off_ms) => {
                self.excuses.is_wrong(host);
                self.fleet.set_calendar(host, off_ms);
            }
            Deed::Wear(host, wear) => self.fleet.set_wear(host, wear, self.sim.elapsed()),
            Deed::Rot(host) => self.fleet.rot(host, false),
            Deed::RotHinted(host) => self.fleet.rot(host, true),
            Deed::Spoil(host, family) if !is_up(&self.fleet, host) => self.fleet.spoil(host, family),
            Deed::Spoil(..) => {}
            Deed::Asleep(host, asleep) => {
                let now = self.sim.elapsed();
                self.fleet.set_asleep(host, asleep, now);
                self.excuses.sleeps(host, now, asleep);
            }
            Deed::Wipe(host) => {
                if let Some(id) = self.id_on(host)
                    && !is_up(&self.fleet, host)
                {
                    self.wiped.insert(host, id);
                    self.gone.note(id);
                    self.fleet.wipe(host);
                }
            }
            Deed::Image(host) => self.fleet.take_image(host),
            Deed::PutBack(host) if !is_up(&self.fleet, host) => {
                self.fleet.put_back(host);
                self.fleet.watch.has_old_disks();
                if self.plagues.iter().any(|plague| plague.separates()) {
                    self.excuses.is_old(host, self.sim.elapsed());
                }
            }
            Deed::PutBack(_) => {}
            Deed::ReplaceWiped(host) => self.to_replace.extend(self.wiped.get(&host).map(|old| (host, *old))),
            Deed::Add { host, waits } => {
                self.fleet.add(&mut self.sim, host, waits);
                // Clients hear of it, and ask it as any other from then on.
                self.joined.lock().unwrap_or_else(PoisonError::into_inner).push(people::url(host));
            }
            Deed::Leave(host) => {
                if let Some(id) = self.id_on(host) {
                    self.excuses.leaves();
                    self.order(Order::Leave(id));
                }
            }
            Deed::Replace { old: host, new } => {
                // A machine that is just being wiped has had a node, whose place is to be taken all the same.
                let old = self.id_on(host).or_else(|| self.wiped.get(&host).copied());
                self.trace.event(&format!("{host} hands its place to {new}"));
                self.excuses.leaves();
                self.to_replace.extend(old.map(|old| (new, old)));
            }
        }
    }

    pub(super) fn order(&mut self, order: Order) {
        self.trace.event(&format!("the operator is told: {order:?}"));
        self.ordered += 1;
        let _ = self.orders.send(order);
    }

    pub(super) fn id_on(&self, host: Host) -> Option<NodeId> {
        let rows = self.fleet.machine(host).disk().rows;
        let identity = rows.row(node::store::Family::Meta, node::store::keys::IDENTITY)?;
        converged::node_id(&identity)
    }
}
