//! A cart that moves into another, once however often it is tried.
//!
//! Every add that counts in the source becomes an add of the target under a name that follows from the source and the
//! add alone. So a second attempt, or a second node that attempts it at the same time, says the same names again, and
//! the target takes each once. The source is emptied only after the target has acknowledged them all; whatever was put
//! into the source in between was not read, is not emptied, and moves the next time.

use super::value::live_adds;
use crate::causal::Dot;
use crate::record::{Op, Record};
use bytes::Bytes;

/// Zeros that go first: a client's own name has at most 64 bytes, so what is hashed here is never one of those.
const LONGER_THAN_ANY_NAME: [u8; 64] = [0; 64];

/// What moves out of the cart `source`: item, how many, and the name under which the target takes it.
pub fn moved(record: &Record, source: &[u8]) -> Vec<(Bytes, i64, Op)> {
    live_adds(record).map(|(dot, sku, quantity, op)| (sku.clone(), quantity, name(source, dot, op))).collect()
}

/// An add with a name is known by it, for two replicas may have taken it under two dots.
fn name(source: &[u8], dot: Dot, op: Option<Op>) -> Op {
    let mut text = Vec::with_capacity(LONGER_THAN_ANY_NAME.len() + 9 + source.len() + 33);
    text.extend_from_slice(&LONGER_THAN_ANY_NAME);
    text.extend_from_slice(b"merge");
    text.extend_from_slice(&(source.len() as u32).to_be_bytes());
    text.extend_from_slice(source);
    match op {
        Some(op) => {
            text.push(1);
            text.extend_from_slice(&op.0.to_be_bytes());
        }
        None => {
            text.push(0);
            text.extend_from_slice(&dot.actor.node.0.to_be_bytes());
            text.extend_from_slice(&dot.actor.epoch.to_be_bytes());
            text.extend_from_slice(&dot.count.to_be_bytes());
        }
    }
    Op::of(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::{Actor, Context};
    use crate::ids::NodeId;
    use crate::record::{Content, Sibling};

    fn cart(adds: &[(u128, u64, &'static str, i64, Option<&str>)]) -> Record {
        let siblings: Vec<Sibling> = adds
            .iter()
            .map(|(node, count, sku, quantity, op)| Sibling {
                dot: Dot { actor: Actor { node: NodeId(*node), epoch: 1 }, count: *count },
                content: Content::CartAdd {
                    sku: Bytes::from_static(sku.as_bytes()),
                    quantity: *quantity,
                    op: op.map(|op| Op::of(op.as_bytes())),
                },
            })
            .collect();
        Record { clock: Context::of_dots(siblings.iter().map(|s| s.dot)), siblings }
    }

    #[test]
    fn an_add_moves_under_the_same_name_each_time() {
        let guest = cart(&[(1, 1, "mug", 2, None), (1, 2, "mug", -1, Some("x"))]);
        let once = moved(&guest, b"guest");
        assert_eq!(once, moved(&guest, b"guest"));
        assert_eq!(once.iter().map(|(_, quantity, _)| *quantity).collect::<Vec<_>>(), [2, -1]);
        assert_ne!(once[0].2, once[1].2);
    }

    #[test]
    fn an_operation_moves_under_its_own_name_whichever_replica_took_it() {
        let here = moved(&cart(&[(1, 1, "mug", 2, Some("x"))]), b"guest");
        let there = moved(&cart(&[(2, 7, "mug", 2, Some("x"))]), b"guest");
        assert_eq!(here, there);
        let both = moved(&cart(&[(1, 1, "mug", 2, Some("x")), (2, 7, "mug", 2, Some("x"))]), b"guest");
        assert_eq!(here, both);
    }

    #[test]
    fn names_differ_between_sources_and_from_the_clients_own() {
        let guest = cart(&[(1, 1, "mug", 2, Some("x"))]);
        let (a, b) = (moved(&guest, b"a"), moved(&guest, b"b"));
        assert_ne!(a[0].2, b[0].2);
        assert_ne!(a[0].2, Op::of(b"x"));
    }
}
