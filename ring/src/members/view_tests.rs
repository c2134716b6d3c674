//! The view's laws over random views, and its promises one by one.

use super::*;
use proptest::prelude::*;

const CLUSTER: ClusterId = ClusterId(7);

fn described(port: u16) -> Description {
    Description {
        http: format!("127.0.0.1:{port}"),
        peer: format!("127.0.0.1:{}", port + 1),
        zone: Zone("a".to_owned()),
        weight: 1,
        starts: 1,
        boot_id: 5,
    }
}

fn sized(n: u8) -> BucketSettings {
    BucketSettings { n, ..Default::default() }
}

fn three() -> View {
    let mut view = View::new(CLUSTER, 64);
    for number in 1..=3 {
        view.admit(NodeId(number), described(8000 + 10 * number as u16)).unwrap();
        view.set_status(NodeId(number), Status::Up).unwrap();
    }
    view
}

fn merged(a: &View, b: &View) -> View {
    let mut merged = a.clone();
    merged.merge(b).unwrap();
    merged
}

fn members() -> impl Strategy<Value = Member> {
    let statuses = prop::sample::select(vec![
        Status::Joining,
        Status::Up,
        Status::Leaving,
        Status::Lost,
        Status::WrittenOff,
        Status::Removed,
    ]);
    let seat = (0u64..3, 1u32..3, 0u8..2).prop_map(|(version, weight, zone)| Seat {
        version,
        weight,
        zone: Zone(zone.to_string()),
    });
    let agreed = prop::option::of((0u64..2, 0u64..2).prop_map(|(stamp, regime)| Agreed { stamp, regime }));
    let acting = (0u64..3, 0u64..2, any::<bool>(), agreed);
    let acting = acting.prop_map(|(version, regime, done, agreed)| Acting { version, regime, done, agreed });
    (0u64..3, 1u16..3, 1u32..3, statuses, 0u64..3, seat, acting).prop_map(
        |(incarnation, port, weight, status, status_version, seat, acting)| {
            let description = Description { weight, ..described(port) };
            Member { incarnation, description, status, status_version, seat, acting }
        },
    )
}

fn settled() -> impl Strategy<Value = Settled> {
    (0u64..3, 0u128..4, prop::option::of(0u128..4)).prop_map(|(stamp, nodes, previous)| {
        let layout = |nodes: u128| {
            let claimant = |id| Claimant { id: NodeId(id), zone: Zone("a".to_owned()), weight: 1 };
            Layout::empty(64).evolve(&(0..nodes).map(claimant).collect::<Vec<_>>())
        };
        Settled { stamp, layout: layout(nodes), previous: previous.map(layout) }
    })
}

fn staged() -> impl Strategy<Value = Staged> {
    (0u64..3, prop::option::of((0u128..3).prop_map(NodeId)), 0u128..3).prop_map(|(version, by, id)| Staged {
        version,
        by,
        changes: vec![crate::members::Change::leave(NodeId(id))],
    })
}

fn entries() -> impl Strategy<Value = BucketEntry> {
    (0u64..3, 0u128..3, prop::option::of(1u8..4)).prop_map(|(version, by, n)| BucketEntry {
        version,
        by: NodeId(by),
        settings: n.map(sized),
    })
}

fn views() -> impl Strategy<Value = View> {
    let members = prop::collection::btree_map((0u128..4).prop_map(NodeId), members(), 0..4);
    let names = prop::sample::select(vec!["a", "b", "c"]).prop_map(Bytes::from);
    let buckets = prop::collection::btree_map(names, entries(), 0..3);
    let defaults = prop::option::of((1u8..4).prop_map(sized));
    let parts = (members, buckets, settled(), staged(), defaults);
    parts.prop_map(|(members, buckets, settled, staged, defaults)| View {
        members,
        buckets,
        settled,
        staged,
        defaults,
        ..View::new(CLUSTER, 64)
    })
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(a in views(), b in views(), c in views()) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a);
    }

    #[test]
    fn merge_says_whether_anything_was_new(a in views(), b in views()) {
        let mut merged = a.clone();
        let changed = merged.merge(&b).unwrap();
        prop_assert_eq!(changed, merged != a);
        prop_assert_eq!(changed, merged.digest() != a.digest());
        prop_assert_eq!(merged.merge(&b), Ok(false));
    }

    #[test]
    fn the_table_counter_never_falls(a in views(), b in views()) {
        let merged = merged(&a, &b).table_counter();
        prop_assert!(merged >= a.table_counter().max(b.table_counter()));
    }

    #[test]
    fn a_removed_member_stays_removed(a in views(), b in views()) {
        let merged = merged(&a, &b);
        for (id, member) in a.members.iter().chain(&b.members) {
            if member.status == Status::Removed {
                prop_assert_eq!(merged.members[id].status, Status::Removed);
            }
        }
    }

    #[test]
    fn a_view_survives_the_wire(view in views()) {
        prop_assert_eq!(View::decode(&view.encode()).unwrap(), view);
    }

    /// A node that knows of no defaults reads and writes what stands in front of them.
    #[test]
    fn a_view_without_defaults_is_the_beginning_of_one_with_them(view in views()) {
        let before = View { defaults: None, ..view.clone() };
        let bytes = postcard::to_stdvec(&view).unwrap();
        prop_assert_eq!(&bytes, &before.encode());
        prop_assert!(view.encode().starts_with(&bytes));
        prop_assert_eq!(View::decode(&bytes), Ok(before.clone()));
        prop_assert_eq!(postcard::from_bytes::<View>(&view.encode()), Ok(before));
    }

    #[test]
    fn any_bytes_are_a_view_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = View::decode(&bytes);
        if let Ok(view) = postcard::from_bytes::<View>(&bytes) {
            // Whatever decodes must be checked without a panic, and what passes must merge with itself.
            let _ = view.validate().map(|()| merged(&view, &view));
        }
    }
}

#[test]
fn a_newcomer_joins_and_owns_once_it_is_up() {
    let mut view = View::new(CLUSTER, 64);
    assert_eq!(view.admit(NodeId(1), described(8098)), Ok(true));
    assert_eq!((view.living().count(), view.claimants().len()), (1, 0));
    assert_eq!(view.set_status(NodeId(1), Status::Up), Ok(true));
    assert_eq!((view.living().count(), view.claimants().len()), (1, 1));
    assert_eq!(view.set_status(NodeId(1), Status::Up), Ok(false));
}

#[test]
fn a_leaving_member_claims_nothing_more() {
    let mut view = three();
    view.set_status(NodeId(2), Status::Leaving).unwrap();
    assert_eq!(view.claimants().len(), 2);
    view.set_status(NodeId(2), Status::Removed).unwrap();
    assert_eq!((view.claimants().len(), view.living().count(), view.members.len()), (2, 2, 3));
}

#[test]
fn a_new_description_has_a_higher_incarnation_and_the_old_status() {
    let mut view = three();
    let old = view.clone();
    assert_eq!(view.admit(NodeId(1), view.members[&NodeId(1)].description.clone()), Ok(false));
    assert_eq!(view.admit(NodeId(1), described(9000)), Ok(true));
    let member = &view.members[&NodeId(1)];
    assert_eq!((member.incarnation, member.status), (2, Status::Up));
    assert_eq!(merged(&old, &view).members[&NodeId(1)].description, described(9000));
}

#[test]
fn the_removed_are_not_admitted_again() {
    let mut view = three();
    view.set_status(NodeId(2), Status::Removed).unwrap();
    let before = view.clone();
    assert_eq!(view.admit(NodeId(2), described(9000)), Err(ViewError::Removed(NodeId(2))));
    let expected = ViewError::Status { id: NodeId(2), from: Status::Removed, to: Status::Up };
    assert_eq!(view.set_status(NodeId(2), Status::Up), Err(expected));
    assert_eq!(view.set_status(NodeId(9), Status::Up), Err(ViewError::NoMember(NodeId(9))));
    assert_eq!(view, before);
}

#[test]
fn equal_views_make_equal_regimes() {
    let (mut a, mut b) = (three(), three());
    a.set_status(NodeId(3), Status::Leaving).unwrap();
    b.set_seat(NodeId(1), 2, Zone("a".to_owned())).unwrap();
    let name = |view: &View| crate::members::Regime::of(view).name();
    assert_eq!(name(&merged(&a, &b)), name(&merged(&b, &a)));
    assert!(name(&merged(&a, &b)) > name(&a));
}

#[test]
fn a_description_moves_nothing_once_its_node_is_up() {
    let mut view = View::new(CLUSTER, 64);
    view.admit(NodeId(1), described(8098)).unwrap();
    view.admit(NodeId(1), Description { weight: 3, ..described(8098) }).unwrap();
    assert_eq!(view.members[&NodeId(1)].seat.weight, 3, "a node that waits may still change its mind");
    view.set_status(NodeId(1), Status::Up).unwrap();
    view.admit(NodeId(1), Description { weight: 5, ..described(8098) }).unwrap();
    assert_eq!(view.claimants()[0].weight, 3);
}

#[test]
fn bucket_settings_are_set_changed_and_deleted() {
    let (mut view, carts) = (three(), Bytes::from_static(b"carts"));
    assert_eq!(view.bucket(&carts), None);
    assert_eq!(view.set_bucket(carts.clone(), NodeId(1), None), Ok(false), "there was nothing to delete");
    assert_eq!(view.set_bucket(carts.clone(), NodeId(1), Some(sized(2))), Ok(true));
    assert_eq!(view.set_bucket(carts.clone(), NodeId(2), Some(sized(2))), Ok(false));
    let old = view.clone();
    assert_eq!(view.set_bucket(carts.clone(), NodeId(1), None), Ok(true));
    assert_eq!((view.bucket(&carts), view.buckets_configured().count()), (None, 0));
    assert_eq!(merged(&view, &old).bucket(&carts), None, "a late gossip does not bring settings back");
}

#[test]
fn settings_made_on_both_sides_become_one() {
    let (mut a, mut b, carts) = (three(), three(), Bytes::from_static(b"carts"));
    a.set_bucket(carts.clone(), NodeId(1), Some(sized(5))).unwrap();
    b.set_bucket(carts.clone(), NodeId(2), Some(sized(2))).unwrap();
    assert_eq!(merged(&a, &b).bucket(&carts), Some(&sized(2)));
    assert_eq!(merged(&b, &a).bucket(&carts), Some(&sized(2)));
}

#[test]
fn bad_settings_and_names_are_refused() {
    let mut view = three();
    let before = view.clone();
    let carts = Bytes::from_static(b"carts");
    let refused = view.set_bucket(carts.clone(), NodeId(1), Some(sized(0)));
    assert!(matches!(refused, Err(ViewError::Settings(Invalid { pointer, .. })) if pointer == "/n"));
    let refused = view.set_bucket(Bytes::new(), NodeId(1), Some(sized(3)));
    assert_eq!(refused, Err(ViewError::BucketName(NameError::Bucket(0))));
    assert_eq!(view.set_bucket(Bytes::new(), NodeId(1), None), Err(NameError::Bucket(0).into()));
    assert_eq!(view, before);
    let typed = |kind| BucketSettings { kind: Some(kind), ..Default::default() };
    view.set_bucket(carts.clone(), NodeId(1), Some(typed(crate::bucket::DataType::Cart))).unwrap();
    let refused = view.set_bucket(carts, NodeId(1), Some(typed(crate::bucket::DataType::Set)));
    assert!(matches!(refused, Err(ViewError::Settings(Invalid { pointer, .. })) if pointer == "/type"));
}

#[test]
fn bad_descriptions_are_refused() {
    let mut view = three();
    let before = view.clone();
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    for (what, description) in [
        ("weight", Description { weight: 0, ..described(1) }),
        ("weight", Description { weight: u32::MAX, ..described(1) }),
        ("zone", Description { zone: Zone(long.clone()), ..described(1) }),
        ("zone", Description { zone: Zone("a\nb".to_owned()), ..described(1) }),
        ("peer address", Description { peer: long.clone(), ..described(1) }),
        ("http address", Description { http: long.clone(), ..described(1) }),
    ] {
        assert_eq!(view.admit(NodeId(4), description), Err(ViewError::Description { id: NodeId(4), what }));
    }
    assert_eq!(view, before);
}

#[test]
fn a_bad_view_from_outside_changes_nothing() {
    let (mut view, before) = (three(), three());
    let other = View { cluster: ClusterId(8), ..three() };
    assert!(matches!(view.merge(&other), Err(ViewError::OtherCluster { .. })));
    assert_eq!(view.merge(&View { partitions: 128, ..three() }), Err(ViewError::Partitions(128)));
    assert_eq!(View { partitions: 3, ..three() }.validate(), Err(ViewError::Partitions(3)));
    let mut other = three();
    other.members.get_mut(&NodeId(1)).unwrap().incarnation = u64::MAX;
    let what = "incarnation";
    assert_eq!(view.merge(&other), Err(ViewError::Description { id: NodeId(1), what }));
    let mut other = three();
    let entry = BucketEntry { version: u64::MAX, by: NodeId(1), settings: None };
    other.buckets.insert(Bytes::from_static(b"b"), entry);
    assert_eq!(view.merge(&other), Err(ViewError::BucketVersion(u64::MAX)));
    assert_eq!(view, before);
}

#[test]
fn the_bounds_refuse_newcomers_and_let_full_sides_merge() {
    let full = |from: u128| {
        let mut view = View::new(CLUSTER, 64);
        for number in from..from + MEMBERS_MAX as u128 {
            let member = Member { status: Status::Up, ..Member::new(described(1)) };
            view.members.insert(NodeId(number), member);
        }
        view
    };
    let mut view = full(0);
    assert_eq!(view.admit(NodeId(9999), described(1)), Err(ViewError::TooManyMembers));
    assert_eq!(view.admit(NodeId(3), described(2)), Ok(true), "a member may still describe itself anew");
    view.set_status(NodeId(5), Status::Removed).unwrap();
    assert_eq!(view.admit(NodeId(9999), described(1)), Ok(true), "one left, one may come");
    assert_eq!(view.merge(&full(2000)), Ok(true));
    view.merge(&full(4000)).unwrap();
    let before = view.clone();
    assert_eq!(
        view.merge(&full(8000)),
        Err(ViewError::TooManyMembers),
        "1,025 × 3 + 1,024 rows are too many"
    );
    assert_eq!(view, before);
}

#[test]
fn there_are_so_many_buckets_and_no_more() {
    let mut view = three();
    let name = |number: usize| Bytes::from(number.to_string());
    for number in 0..BUCKETS_MAX {
        let entry = BucketEntry { version: 1, by: NodeId(1), settings: Some(sized(3)) };
        view.buckets.insert(name(number), entry);
    }
    assert_eq!(view.set_bucket(name(BUCKETS_MAX), NodeId(1), Some(sized(2))), Err(ViewError::TooManyBuckets));
    assert_eq!(view.set_bucket(name(5), NodeId(1), Some(sized(2))), Ok(true));
    assert_eq!(view.set_bucket(name(5), NodeId(1), None), Ok(true));
    assert_eq!(view.set_bucket(name(BUCKETS_MAX), NodeId(1), Some(sized(2))), Ok(true));
}
