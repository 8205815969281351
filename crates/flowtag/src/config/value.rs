//! Values that may be written in more than one way. Their errors say what was found, and never name Rust types.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, IntoDeserializer, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// An identifier as people write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum NameOrNumber {
    Number(i64),
    Name(String),
}

impl<'de> Deserialize<'de> for NameOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = NameOrNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<NameOrNumber, E> {
                Ok(NameOrNumber::Number(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<NameOrNumber, E> {
                let number = i64::try_from(number);
                number
                    .map(NameOrNumber::Number)
                    .map_err(|_| E::invalid_value(Unexpected::Other("a larger number"), &self))
            }

            fn visit_str<E>(self, name: &str) -> Result<NameOrNumber, E> {
                Ok(NameOrNumber::Name(name.to_owned()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl fmt::Display for NameOrNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A list, or a single value without brackets; in JSON `null` is the empty list. Written as a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Many<T>(pub(crate) Vec<T>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Many<T> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore<T>(PhantomData<T>);

        fn one<'de, T: Deserialize<'de>, E: Error>(
            value: impl IntoDeserializer<'de, E>,
        ) -> Result<Many<T>, E> {
            T::deserialize(value.into_deserializer()).map(|value| Many(vec![value]))
        }

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
            type Value = Many<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Many<T>, E> {
                one(value)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Many<T>, E> {
                one(value)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Many<T>, E> {
                one(value)
            }

            fn visit_unit<E: Error>(self) -> Result<Many<T>, E> {
                Ok(Many::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Many<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Many)
            }
        }

        deserializer.deserialize_any(OneOrMore(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_a_list_of_one() {
        let names = |json: &str| serde_json::from_str::<Many<String>>(json).map(|Many(list)| list);
        assert_eq!(names("\"a\"").expect("a name"), ["a"]);
        assert_eq!(names("[\"a\", \"b\"]").expect("a list"), ["a", "b"]);
        assert!(names("null").expect("nothing").is_empty());
        for (json, expected) in
            [("5", "integer `5`, expected a string"), ("{}", "a value or a list"), ("[[]]", "a string")]
        {
            let error = names(json).expect_err(json).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_name_or_number_is_either_and_nothing_else() {
        let either = serde_json::from_str::<Many<NameOrNumber>>("[\"xrootd\", 994, -1]").expect("right");
        let expected =
            [NameOrNumber::Name("xrootd".into()), NameOrNumber::Number(994), NameOrNumber::Number(-1)];
        assert_eq!(either.0, expected);
        for json in ["1.5", "true", "18446744073709551615", "[]", "null"] {
            let error = serde_json::from_str::<NameOrNumber>(json).expect_err(json).to_string();
            assert!(error.contains("a name or a number"), "{error}");
        }
    }
}
