//! What is written anew from the records is what the lane had written beside them.

use super::super::derive::write_all_anew;
use super::*;

const DERIVED: [Family; 3] = [Family::Leaves, Family::Dead, Family::Due];

fn rows(store: &MemStore) -> Vec<Vec<(Bytes, Bytes)>> {
    DERIVED.iter().map(|family| store.scan(*family, b"", None, usize::MAX, usize::MAX).unwrap()).collect()
}

#[tokio::test]
async fn what_follows_from_the_records_is_the_same_when_it_is_written_anew() {
    let bench = Bench::on(MemDisk::new());
    for number in 0..40 {
        let key = id(&format!("k{number}"));
        let ttl = (number % 3 == 0).then_some(1000 + number);
        let taken = bench.put_for(&key, "v", None, true, ttl).await.unwrap();
        if number % 4 == 1 {
            bench.write(&key, Action::Delete, "", Some(taken.context), true).await.unwrap();
        }
    }
    // Some have expired, and are dead as deletions are.
    for number in (0..40).step_by(6) {
        let due = Wall(1001 + number);
        let id = id(&format!("k{number}"));
        bench.lane.run(|reply| Job::Expire { id, due, now: Wall(5000), reply }).await.unwrap();
    }
    let right = rows(&bench.store);
    assert!(right.iter().all(|rows| rows.len() > 3), "{:?}", right.iter().map(Vec::len).collect::<Vec<_>>());
    let mut gone = Batch::default();
    for (family, rows) in DERIVED.into_iter().zip(&right) {
        rows.iter().for_each(|(key, _)| gone.delete(family, key.to_vec()));
    }
    bench.store.write(gone, true).unwrap();
    assert!(rows(&bench.store).iter().all(Vec::is_empty));
    write_all_anew(&bench.store);
    assert_eq!(rows(&bench.store), right);
}
