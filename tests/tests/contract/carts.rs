//! The cart: no acknowledged add is lost, nothing that was removed after it was seen comes back.
//!
//! Every change goes through another node than the one before, and every check reads through all of them.

use crate::support::{key_urls, put_blind};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, Reply, encode};

const BUCKET: &str = "carts";

#[tokio::test]
async fn carts_keep_the_contract() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks.run("adds add up", adds_add_up(c)).await;
    checks.run("a quantity never shows below zero", never_below_zero(c)).await;
    checks.run("a quantity can be set", a_quantity_can_be_set(c)).await;
    checks.run("a removed item stays away and can be added anew", a_removed_item_stays_away(c)).await;
    checks.run("an add that the remover had not seen survives", an_unseen_add_survives(c)).await;
    checks.run("a retry with the same op_id counts once", a_retry_counts_once(c)).await;
    checks.run("attributes are kept", attributes_are_kept(c)).await;
    checks.run("a guest's cart moves once however often it is merged", a_guest_moves_once(c)).await;
    checks.run("a deleted cart is empty and can be filled again", a_deleted_cart_is_empty(c)).await;
    checks.run("a cart is no object and an object no cart", types_do_not_mix(c)).await;
    checks.run("a cart and an object that met at one key both stay", types_that_met(c)).await;
    checks.run("concurrent adds through all nodes all count", concurrent_adds_count(c)).await;
    checks.run("a cart of 200 items is whole on every node", a_large_cart_is_whole(c)).await;
    checks.run("strange ids and skus are ids and skus of their own", strange_names(c)).await;
    checks.finish(&[&cluster])
}

/// In a bucket without a type two clients may use one key for two things at once, and both are told that it was done.
async fn types_that_met(c: &Cluster) -> Result<()> {
    for attempt in 0..100 {
        let (cart, object) = (
            format!("{}/v1/carts/met/{attempt}", c.url(1)),
            http::key_url(&c.url(0), "met", attempt.to_string()),
        );
        let item = json!({"sku": "pen", "quantity": 2});
        let put = http::put(&object).text("value").send();
        let add = http::post(format!("{cart}/items")).json(&item).send();
        let (put, add) = tokio::join!(put, add);
        if put?.status != 204 || add?.status != 200 {
            continue;
        }
        let items = || async { http::get(&cart).send().await?.expect(200)?.json() };
        let shown = items().await?;
        ensure!(shown["total_quantity"] == 2, "the add was acknowledged: {shown}");
        let read = http::get(&object).send().await?.expect(200)?;
        ensure!(read.text() == "value", "the put was acknowledged: {read}");
        http::put(&object).context(&read.context()?).text("next").send().await?.expect(204)?;
        let shown = items().await?;
        ensure!(shown["total_quantity"] == 2, "a value does not supersede items: {shown}");
        http::post(format!("{cart}/items")).json(&item).send().await?.expect(200)?;
        ensure!(items().await?["total_quantity"] == 4, "the cart is one still");
        http::delete(&cart).send().await?.expect(204)?;
        ensure!(
            http::get(&object).send().await?.expect(200)?.text() == "next",
            "a cart's end takes no value away"
        );
        http::delete(&object).send().await?.expect(204)?;
        return http::get(&object).send().await?.expect(404).map(drop);
    }
    anyhow::bail!("in 100 attempts no add and no put were taken at the same time")
}

fn cart_url(c: &Cluster, index: usize, id: &str) -> String {
    format!("{}/v1/carts/{BUCKET}/{}", c.url(index), encode(id))
}

async fn add(c: &Cluster, index: usize, id: &str, sku: &str, quantity: i64) -> Result<Reply> {
    change(c, index, id, &json!({"sku": sku, "quantity": quantity})).await
}

async fn change(c: &Cluster, index: usize, id: &str, item: &Value) -> Result<Reply> {
    let url = format!("{}/items", cart_url(c, index, id));
    http::post(url).json(item).send().await?.expect_success()
}

async fn set(c: &Cluster, index: usize, id: &str, sku: &str, quantity: i64) -> Result<Reply> {
    let url = format!("{}/items/{}", cart_url(c, index, id), encode(sku));
    http::put(url).json(&json!({"quantity": quantity})).send().await?.expect_success()
}

/// Removes an item that the caller saw in a cart with this context.
async fn remove(c: &Cluster, index: usize, id: &str, sku: &str, context: &str) -> Result<Reply> {
    let url = format!("{}/items/{}", cart_url(c, index, id), encode(sku));
    http::delete(url).context(context).send().await?.expect_success()
}

/// The cart as one node shows it; a cart that is not there is an empty one.
async fn show(c: &Cluster, index: usize, id: &str) -> Result<Value> {
    let reply = http::get(cart_url(c, index, id)).send().await?.expect_one_of(&[200, 404])?;
    if reply.status == 404 { Ok(json!({"items": [], "total_quantity": 0})) } else { reply.json() }
}

fn context_of(cart: &Value) -> Result<String> {
    Ok(cart["context"].as_str().with_context(|| format!("no context in {cart}"))?.to_owned())
}

/// Quantities by sku, without zeros; and the total has to be their sum.
fn quantities(cart: &Value) -> Result<BTreeMap<String, i64>> {
    let mut quantities = BTreeMap::new();
    for item in cart["items"].as_array().with_context(|| format!("`items` is no array in {cart}"))? {
        let sku = item["sku"].as_str().with_context(|| format!("no sku in {item}"))?;
        let quantity = item["quantity"].as_i64().with_context(|| format!("no quantity in {item}"))?;
        ensure!(quantity >= 0, "a quantity below zero: {cart}");
        ensure!(quantities.insert(sku.to_owned(), quantity).is_none(), "{sku} stands twice in {cart}");
    }
    quantities.retain(|_, quantity| *quantity > 0);
    ensure!(cart["total_quantity"] == quantities.values().sum::<i64>(), "not the sum: {cart}");
    Ok(quantities)
}

async fn expect_cart(c: &Cluster, id: &str, expected: &[(&str, i64)]) -> Result<()> {
    let expected: BTreeMap<String, i64> =
        expected.iter().map(|&(sku, count)| (sku.to_owned(), count)).collect();
    for index in 0..c.count() {
        let found = quantities(&show(c, index, id).await?)?;
        ensure!(found == expected, "node {index} shows {found:?} in the cart {id}, not {expected:?}");
    }
    Ok(())
}

async fn adds_add_up(c: &Cluster) -> Result<()> {
    add(c, 0, "sum", "apple", 2).await?;
    add(c, 1, "sum", "apple", 3).await?;
    add(c, 2, "sum", "pear", 1).await?;
    add(c, 0, "sum", "apple", -1).await?;
    expect_cart(c, "sum", &[("apple", 4), ("pear", 1)]).await?;
    let cart = show(c, 1, "sum").await?;
    ensure!(cart["id"] == "sum", "{cart}");
    context_of(&cart).map(drop)
}

async fn never_below_zero(c: &Cluster) -> Result<()> {
    add(c, 0, "zero", "apple", 2).await?;
    add(c, 1, "zero", "apple", -10).await?;
    expect_cart(c, "zero", &[]).await?;
    add(c, 2, "zero", "pear", -3).await?;
    expect_cart(c, "zero", &[]).await
}

async fn a_quantity_can_be_set(c: &Cluster) -> Result<()> {
    set(c, 0, "set", "apple", 7).await?;
    expect_cart(c, "set", &[("apple", 7)]).await?;
    set(c, 1, "set", "apple", 3).await?;
    add(c, 2, "set", "apple", 1).await?;
    expect_cart(c, "set", &[("apple", 4)]).await?;
    let url = format!("{}/items/apple", cart_url(c, 0, "set"));
    let reply = http::put(url).json(&json!({"quantity": -1})).send().await?;
    reply.expect_one_of(&[400, 422])?.any_problem()?;
    set(c, 0, "set", "apple", 0).await?;
    expect_cart(c, "set", &[]).await
}

async fn a_removed_item_stays_away(c: &Cluster) -> Result<()> {
    for round in 0..3 {
        let sku = if round < 2 { "apple" } else { "pear" };
        add(c, round, "removed", sku, 5).await?;
        add(c, round + 1, "removed", sku, 1).await?;
        let context = context_of(&show(c, round + 2, "removed").await?)?;
        remove(c, round, "removed", sku, &context).await?;
        expect_cart(c, "removed", &[]).await?;
        // A retry of the remove is harmless.
        remove(c, round + 1, "removed", sku, &context).await?;
        expect_cart(c, "removed", &[]).await?;
    }
    add(c, 0, "removed", "apple", 2).await?;
    expect_cart(c, "removed", &[("apple", 2)]).await
}

async fn an_unseen_add_survives(c: &Cluster) -> Result<()> {
    // (node of the first add, of the second, of the remove)
    for (round, nodes) in [[0, 0, 0], [0, 1, 2], [1, 1, 0], [2, 0, 2]].into_iter().enumerate() {
        let id = format!("unseen {round}");
        add(c, nodes[0], &id, "apple", 2).await?;
        let seen = context_of(&show(c, nodes[2], &id).await?)?;
        add(c, nodes[1], &id, "apple", 3).await?;
        add(c, nodes[1], &id, "pear", 1).await?;
        remove(c, nodes[2], &id, "apple", &seen).await?;
        expect_cart(c, &id, &[("apple", 3), ("pear", 1)])
            .await
            .with_context(|| format!("nodes {nodes:?}"))?;
    }
    Ok(())
}

async fn a_retry_counts_once(c: &Cluster) -> Result<()> {
    let item = json!({"sku": "apple", "quantity": 2, "op_id": "order-1"});
    for index in 0..6 {
        change(c, index, "retry", &item).await?;
    }
    expect_cart(c, "retry", &[("apple", 2)]).await?;
    change(c, 0, "retry", &json!({"sku": "apple", "quantity": 2, "op_id": "order-2"})).await?;
    expect_cart(c, "retry", &[("apple", 4)]).await?;
    // All at once, as after a time-out that was none.
    let item = json!({"sku": "pear", "quantity": 5, "op_id": "x".repeat(64)});
    let (first, second, third) = tokio::join!(
        change(c, 0, "retry", &item),
        change(c, 1, "retry", &item),
        change(c, 2, "retry", &item)
    );
    first.and(second).and(third)?;
    expect_cart(c, "retry", &[("apple", 4), ("pear", 5)]).await
}

async fn attributes_are_kept(c: &Cluster) -> Result<()> {
    let item = json!({"sku": "shirt", "quantity": 1, "attributes": {"colour": "red", "size": "XL"}});
    change(c, 0, "attributes", &item).await?;
    add(c, 1, "attributes", "shirt", 1).await?;
    for index in 0..3 {
        let cart = show(c, index, "attributes").await?;
        let item = &cart["items"][0];
        ensure!(item["quantity"] == 2, "{cart}");
        ensure!(item["attributes"]["colour"] == "red" && item["attributes"]["size"] == "XL", "{cart}");
    }
    Ok(())
}

async fn a_guest_moves_once(c: &Cluster) -> Result<()> {
    add(c, 0, "guest", "apple", 2).await?;
    add(c, 1, "guest", "pear", 1).await?;
    add(c, 2, "customer", "apple", 1).await?;
    for index in 0..6 {
        let url = format!("{}/merge", cart_url(c, index, "customer"));
        http::post(url).json(&json!({"from": "guest"})).send().await?.expect_success()?;
        expect_cart(c, "customer", &[("apple", 3), ("pear", 1)])
            .await
            .with_context(|| format!("merge {index}"))?;
    }
    expect_cart(c, "guest", &[]).await
}

async fn a_deleted_cart_is_empty(c: &Cluster) -> Result<()> {
    for round in 0..3 {
        add(c, round, "emptied", "apple", 2).await?;
        add(c, round + 1, "emptied", "pear", 2).await?;
        http::delete(cart_url(c, round + 2, "emptied")).send().await?.expect_success()?;
        expect_cart(c, "emptied", &[]).await?;
    }
    add(c, 0, "emptied", "apple", 1).await?;
    expect_cart(c, "emptied", &[("apple", 1)]).await
}

async fn types_do_not_mix(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "mixed");
    add(c, 0, "mixed", "apple", 1).await?;
    for url in &urls {
        http::put(url).text("an object").send().await?.problem_code(409, "wrong_type")?;
    }
    expect_cart(c, "mixed", &[("apple", 1)]).await?;
    put_blind(&key_urls(c, "plain", "object")[0], "an object").await?;
    for index in 0..3 {
        let url = format!("{}/v1/carts/plain/object/items", c.url(index));
        let reply = http::post(url).json(&json!({"sku": "apple", "quantity": 1})).send().await?;
        reply.problem_code(409, "wrong_type")?;
    }
    let object = http::get(&key_urls(c, "plain", "object")[1]).send().await?.expect(200)?;
    ensure!(object.text() == "an object", "{object}");
    Ok(())
}

async fn concurrent_adds_count(c: &Cluster) -> Result<()> {
    let shopper = |index: usize| async move {
        for _ in 0..12 {
            add(c, index, "crowd", "apple", 1).await?;
            add(c, index + 1, "crowd", &format!("own {index}"), 1).await?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let done = tokio::join!(shopper(0), shopper(1), shopper(2), shopper(3), shopper(4));
    done.0.and(done.1).and(done.2).and(done.3).and(done.4)?;
    let own: Vec<(&str, i64)> = ["own 0", "own 1", "own 2", "own 3", "own 4"].map(|sku| (sku, 12)).to_vec();
    expect_cart(c, "crowd", &[&[("apple", 60)], own.as_slice()].concat()).await
}

async fn a_large_cart_is_whole(c: &Cluster) -> Result<()> {
    let skus: Vec<String> = (0..200).map(|number| format!("sku-{number:03}")).collect();
    for (index, sku) in skus.iter().enumerate() {
        add(c, index, "large", sku, index as i64 + 1).await?;
    }
    let expected: Vec<(&str, i64)> = skus.iter().map(String::as_str).zip(1..).collect();
    expect_cart(c, "large", &expected).await
}

async fn strange_names(c: &Cluster) -> Result<()> {
    let names = ["a/b", "a%2Fb", "a b", "a+b", "ü", "\u{1F6D2}", "?", "items"];
    for (index, name) in names.into_iter().enumerate() {
        add(c, index, name, name, index as i64 + 1).await?;
        set(c, index + 1, name, "a/b+c d", 1).await?;
    }
    for (index, name) in names.into_iter().enumerate() {
        let mut expected = BTreeMap::from([("a/b+c d", 1)]);
        expected.insert(name, index as i64 + 1);
        expect_cart(c, name, &expected.into_iter().collect::<Vec<_>>()).await?;
    }
    Ok(())
}
