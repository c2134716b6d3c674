//! `cart …`: carts from a shell.
//!
//! A change gets an `op_id` of its own unless one is given, so a retry after a silence counts once. A removal takes
//! away what its caller has seen: here that is the cart as it was just read, and the context can be given instead.

use super::object::print_written;
use super::output::{Terminal, table};
use super::{DONE, Endpoint, NOT_FOUND};
use crate::call::Client;
use crate::cart::{Cart, ItemChange, fresh_op_id};
use crate::error::{Error, Result};
use crate::object::Context;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const EXAMPLES: &str = "\
Examples:
  cartwheel cart add carts alice teapot
  cartwheel cart add carts alice cup 6
  cartwheel cart add carts alice cup -2
  cartwheel cart show carts alice
  cartwheel cart remove carts alice teapot
  cartwheel cart merge carts alice --from guest-17

The bucket of a cart has the type `cart`.";

/// `cartwheel cart`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CartArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// What to do.
    #[command(subcommand)]
    pub command: CartCommand,
}

#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct CartName {
    /// The bucket
    bucket: OsString,
    /// The cart
    id: OsString,
}

/// What to do with a cart.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum CartCommand {
    /// Show what is in it
    Show {
        #[command(flatten)]
        cart: CartName,
    },
    /// Add to the quantity of an item, or take from it with a negative number
    Add {
        #[command(flatten)]
        cart: CartName,
        /// The item
        sku: String,
        /// How many
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        quantity: i64,
        /// Kept with the item; a value that is JSON is taken as such
        #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
        attributes: Vec<(String, Value)>,
        /// Makes the same command count once however often it is run
        #[arg(long)]
        op_id: Option<String>,
    },
    /// Set the quantity of an item
    Set {
        #[command(flatten)]
        cart: CartName,
        /// The item
        sku: String,
        /// How many
        quantity: u64,
    },
    /// Remove an item
    Remove {
        #[command(flatten)]
        cart: CartName,
        /// The item
        sku: String,
        /// What you have seen; the cart is read first when it is not given
        #[arg(long, value_name = "TOKEN")]
        context: Option<String>,
    },
    /// Move another cart into this one
    Merge {
        #[command(flatten)]
        cart: CartName,
        /// The cart that is moved, such as a guest's
        #[arg(value_name = "FROM", required_unless_present = "from_flag")]
        from: Option<String>,
        /// The same, by name
        #[arg(long = "from", value_name = "ID", id = "from_flag", conflicts_with = "from")]
        from_flag: Option<String>,
    },
    /// Remove everything
    Empty {
        #[command(flatten)]
        cart: CartName,
        /// What you have seen; the cart is read first when it is not given
        #[arg(long, value_name = "TOKEN")]
        context: Option<String>,
    },
}

fn attribute(text: &str) -> std::result::Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("it looks like NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

pub(crate) async fn run(args: CartArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    match args.command {
        CartCommand::Show { cart } => {
            let (bucket, id) = cart.bytes();
            show(&client.cart(&bucket, &id).await?, terminal);
        }
        CartCommand::Add { cart, sku, quantity, attributes, op_id } => {
            let (bucket, id) = cart.bytes();
            let op_id = op_id.unwrap_or_else(fresh_op_id);
            let attributes = (!attributes.is_empty()).then(|| Map::from_iter(attributes));
            let change = ItemChange { sku, quantity, attributes, op_id: Some(op_id.clone()) };
            let added = client.cart_add(&bucket, &id, &change).await;
            if let Err(Error::Transport { .. } | Error::Problem(_)) = &added {
                terminal.say(&format!("to run it again so that it counts once: --op-id {op_id}"));
            }
            print_written(&added?, terminal);
        }
        CartCommand::Set { cart, sku, quantity } => {
            let (bucket, id) = cart.bytes();
            print_written(&client.cart_set(&bucket, &id, &sku, quantity, None).await?, terminal);
        }
        CartCommand::Remove { cart, sku, context } => {
            return remove(cart, sku, context, client, terminal).await;
        }
        CartCommand::Merge { cart, from, from_flag } => {
            let from = from.or(from_flag).expect("clap asks for one of them");
            let (bucket, id) = cart.bytes();
            print_written(&client.cart_merge(&bucket, &id, &from).await?, terminal);
        }
        CartCommand::Empty { cart, context } => {
            let (bucket, id) = cart.bytes();
            let context = match context {
                Some(token) => Some(Context(token)),
                None => client.cart(&bucket, &id).await?.context,
            };
            print_written(&client.cart_empty(&bucket, &id, context.as_ref()).await?, terminal);
        }
    }
    Ok(DONE)
}

async fn remove(
    cart: CartName,
    sku: String,
    context: Option<String>,
    client: &Client,
    terminal: &mut Terminal<'_>,
) -> Result<i32> {
    let (bucket, id) = cart.bytes();
    let context = match context {
        Some(token) => Context(token),
        None => {
            let seen = client.cart(&bucket, &id).await?;
            let held = seen.items.iter().any(|item| item.sku == sku);
            match seen.context {
                Some(context) if held => context,
                _ => {
                    terminal.say(&format!("not found: there is no {sku} in this cart"));
                    return Ok(NOT_FOUND);
                }
            }
        }
    };
    print_written(&client.cart_remove(&bucket, &id, &sku, &context).await?, terminal);
    Ok(DONE)
}

fn show(cart: &Cart, terminal: &mut Terminal<'_>) {
    if terminal.json {
        return terminal.document(&serde_json::to_value(cart).expect("a cart is text and numbers"));
    }
    let mut rows = table(&["SKU", "QUANTITY", "ATTRIBUTES"]);
    for item in &cart.items {
        let attributes: Vec<String> =
            item.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        rows.add_row([item.sku.clone(), item.quantity.to_string(), attributes.join(" ")]);
    }
    rows.add_row(["total".to_owned(), cart.total_quantity.to_string(), String::new()]);
    terminal.line(&rows.trim_fmt());
    if let Some(context) = &cart.context {
        terminal.say(&format!("context: {context}"));
    }
}

impl CartName {
    fn bytes(self) -> (Vec<u8>, Vec<u8>) {
        (self.bucket.into_vec(), self.id.into_vec())
    }
}
