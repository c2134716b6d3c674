//! `[defaults]`: how a bucket behaves that nobody configured, in the words of a bucket's own settings.

use super::ConfigError;
use ring::bucket::{BucketSettings, Invalid, Setting};
use std::collections::BTreeMap;

/// Reads the table; what it leaves out is the contract's.
pub fn bucket_defaults(given: &BTreeMap<String, toml::Value>) -> Result<BucketSettings, ConfigError> {
    let mut settings = BucketSettings::default();
    for (name, value) in given {
        settings.set(name, setting(value)).map_err(|e| refused(&e, given))?;
    }
    settings.validate().map_err(|e| refused(&e, given))?;
    Ok(settings)
}

fn setting(value: &toml::Value) -> Setting {
    match value {
        toml::Value::Integer(n) if *n >= 0 => Setting::Number(n.unsigned_abs()),
        toml::Value::Boolean(b) => Setting::Bool(*b),
        toml::Value::String(text) => Setting::Text(text.clone()),
        // A text that no setting takes: the refusal shows what was found.
        other => Setting::Text(other.to_string()),
    }
}

fn refused(invalid: &Invalid, given: &BTreeMap<String, toml::Value>) -> ConfigError {
    let name = invalid.pointer.trim_start_matches('/');
    let found = given.get(name).map_or_else(|| "nothing".to_owned(), ToString::to_string);
    ConfigError::Value { key: format!("defaults.{name}"), found, allowed: invalid.detail.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BucketSettings, ConfigError> {
        bucket_defaults(&toml::from_str(text).expect("the test writes TOML"))
    }

    #[test]
    fn what_is_given_replaces_what_is_not() {
        let settings = read("n = 5\nsloppy = false\ndurability = \"os\"").unwrap();
        assert_eq!((settings.n, settings.sloppy), (5, false));
        assert_eq!(settings.max_siblings, BucketSettings::default().max_siblings);
    }

    #[test]
    fn a_bad_default_is_named_with_what_was_found() {
        for (text, key) in
            [("w = 4", "defaults.w"), ("n = -1", "defaults.n"), ("colour = 1", "defaults.colour")]
        {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
