//! A Lens panel, said twice: as the search that Kibana sends to Elasticsearch, and as a loop over documents.
//!
//! Both begin at the exported saved objects, not at their descriptions, so that a panel which is generated wrongly is asked wrongly here as well.
//! What is known of Lens is what the exported panels use: [`Panel::search`] panics on anything else.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::support::Row;

/// The length that `auto` stands for here.
const AUTO: &str = "1h";
const HOUR: i64 = 3_600_000;

/// A panel's answer: by the keys of its buckets, from the outermost to the innermost, its figures.
pub(crate) type Answer = BTreeMap<Vec<String>, Vec<Option<Told>>>;

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    Number(f64),
    /// A percentile: its value, and which. Elasticsearch's is an estimate.
    Percentile(f64, f64),
    Text(String),
}

/// One layer of a panel.
pub(crate) struct Panel {
    pub(crate) title: String,
    /// The data view's pattern.
    pub(crate) pattern: String,
    query: Query,
    buckets: Vec<(String, Value)>,
    figures: Vec<(String, Value)>,
    columns: Map<String, Value>,
}

/// Every layer of every panel of the exported dashboards.
pub(crate) fn panels(ndjson: &str) -> Vec<Panel> {
    let objects: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pattern = |id: &Value| {
        let view = objects.iter().find(|object| object["type"] == "index-pattern" && object["id"] == *id).unwrap();
        view["attributes"]["title"].as_str().unwrap().to_owned()
    };
    let mut found = Vec::new();
    for object in objects.iter().filter(|object| object["type"] == "dashboard") {
        let panels: Value = serde_json::from_str(object["attributes"]["panelsJSON"].as_str().unwrap()).unwrap();
        for panel in panels.as_array().unwrap() {
            let lens = &panel["embeddableConfig"]["attributes"];
            let layers = lens["state"]["datasourceStates"]["formBased"]["layers"].as_object().unwrap();
            for (name, layer) in layers {
                let columns = layer["columns"].as_object().unwrap().clone();
                let order = layer["columnOrder"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
                let all: Vec<(String, Value)> = order.map(|id| (id.clone(), columns[&id].clone())).collect();
                let shown = |(id, _): &(String, Value)| !id.contains('X');
                let (buckets, figures) = all.into_iter().filter(shown).partition(|(_, c)| c["isBucketed"] == true);
                found.push(Panel {
                    title: format!("{} / {} / {name}", object["id"].as_str().unwrap(), lens["title"].as_str().unwrap()),
                    pattern: pattern(&lens["references"][0]["id"]),
                    query: parse(lens["state"]["query"]["query"].as_str().unwrap()),
                    buckets,
                    figures,
                    columns: columns.clone(),
                });
            }
        }
    }
    found
}

fn field(column: &Value) -> &str {
    column["sourceField"].as_str().unwrap()
}

fn filter(column: &Value) -> Option<Query> {
    Some(parse(column["filter"]["query"].as_str()?))
}

/// The column that a bucket is ordered by; its key if there is none.
fn ranked(bucket: &Value) -> Option<&str> {
    bucket["params"]["orderBy"]["columnId"].as_str()
}

// ---------------------------------------------------------------- as a search

impl Panel {
    /// The body of the `_search` that Kibana sends.
    pub(crate) fn search(&self) -> Value {
        json!({ "size": 0, "track_total_hits": true, "query": self.query.dsl(), "aggs": self.aggregations(0) })
    }

    fn aggregations(&self, depth: usize) -> Value {
        let mut all = Map::new();
        let innermost = depth == self.buckets.len();
        if let Some((_, bucket)) = self.buckets.get(depth) {
            let mut bucket = self.bucket(bucket);
            bucket["aggs"] = self.aggregations(depth + 1);
            all.insert("b".into(), bucket);
        }
        // A bucket is ordered by a figure that it holds itself.
        let ordering = depth.checked_sub(1).and_then(|outer| ranked(&self.buckets[outer].1));
        for (id, column) in &self.figures {
            if innermost || ordering == Some(id) {
                all.extend(self.figure(id, column));
            }
        }
        Value::Object(all)
    }

    fn bucket(&self, column: &Value) -> Value {
        let params = &column["params"];
        match column["operationType"].as_str().unwrap() {
            "date_histogram" => {
                let length = params["interval"].as_str().unwrap();
                let length = if length == "auto" { AUTO } else { length };
                json!({ "date_histogram": { "field": field(column), "fixed_interval": length, "min_doc_count": 1 } })
            }
            "range" => {
                let ranges = params["ranges"].as_array().unwrap().iter();
                let ranges: Vec<Value> =
                    ranges.map(|r| json!({ "from": r["from"], "to": r["to"], "key": r["label"] })).collect();
                json!({ "range": { "field": field(column), "ranges": ranges } })
            }
            "terms" => {
                let ascending = json!({ "_key": "asc" });
                let order = match ranked(column).map(|id| (id, &self.columns[id])) {
                    None => json!([ascending]),
                    Some((_, figure)) if figure["operationType"] == "count" => json!([{ "_count": "desc" }, ascending]),
                    Some((id, _)) => json!([{ id: "desc" }, ascending]),
                };
                // Exact over the several indices of several months.
                let size = &params["size"];
                json!({ "terms": { "field": field(column), "size": size, "shard_size": 50_000, "order": order } })
            }
            other => panic!("a bucket by {other}"),
        }
    }

    fn figure(&self, id: &str, column: &Value) -> Map<String, Value> {
        let one = |name: &str, aggregation: Value| Map::from_iter([(name.to_owned(), aggregation)]);
        let aggregation = match column["operationType"].as_str().unwrap() {
            "static_value" => return Map::new(),
            "count" => match filter(column) {
                None => return Map::new(),
                Some(filter) => return one(id, json!({ "filter": filter.dsl() })),
            },
            "formula" => {
                let part = &self.columns[&format!("{id}X0")];
                return one(id, json!({ "filter": filter(part).unwrap().dsl() }));
            }
            "average" => json!({ "avg": { "field": field(column) } }),
            "min" => json!({ "min": { "field": field(column) } }),
            "max" => json!({ "max": { "field": field(column) } }),
            "unique_count" => json!({ "cardinality": { "field": field(column), "precision_threshold": 40_000 } }),
            "median" => json!({ "percentiles": { "field": field(column), "percents": [50] } }),
            "percentile" => {
                json!({ "percentiles": { "field": field(column), "percents": [column["params"]["percentile"]] } })
            }
            "last_value" => {
                let newest = json!([{ "@timestamp": "desc" }]);
                json!({ "top_hits": { "size": 1, "sort": newest, "_source": [field(column)] } })
            }
            other => panic!("a figure by {other}"),
        };
        match filter(column) {
            None => one(id, aggregation),
            Some(filter) => one(id, json!({ "filter": filter.dsl(), "aggs": { "of": aggregation } })),
        }
    }

    /// The answer in Elasticsearch's reply.
    pub(crate) fn answer(&self, reply: &Value) -> Answer {
        let mut whole = reply["aggregations"].clone();
        whole["doc_count"] = reply["hits"]["total"]["value"].clone();
        let mut answer = Answer::new();
        self.walk(&whole, &mut Vec::new(), &mut answer);
        answer
    }

    fn walk(&self, node: &Value, keys: &mut Vec<String>, into: &mut Answer) {
        if keys.len() == self.buckets.len() {
            let figures = self.figures.iter().map(|(id, column)| self.told(id, column, node)).collect();
            into.insert(keys.clone(), figures);
            return;
        }
        for bucket in node["b"]["buckets"].as_array().unwrap() {
            if bucket["doc_count"] == 0 {
                continue;
            }
            let key = &bucket["key"];
            keys.push(key.as_str().map_or_else(|| key.to_string(), str::to_owned));
            self.walk(bucket, keys, into);
            keys.pop();
        }
    }

    fn told(&self, id: &str, column: &Value, node: &Value) -> Option<Told> {
        let operation = column["operationType"].as_str().unwrap();
        let count = |node: &Value| node["doc_count"].as_f64().unwrap();
        match operation {
            "static_value" => return fixed(column),
            "count" if filter(column).is_none() => return Some(Told::Number(count(node))),
            "count" => return Some(Told::Number(count(&node[id]))),
            "formula" => return Some(Told::Number(count(&node[id]) / count(node))),
            _ => {}
        }
        let found = if filter(column).is_some() { &node[id]["of"] } else { &node[id] };
        match operation {
            "median" | "percentile" => {
                let (percent, value) = found["values"].as_object().unwrap().iter().next().unwrap();
                Some(Told::Percentile(value.as_f64()?, percent.parse().unwrap()))
            }
            "last_value" => {
                let source = &found["hits"]["hits"].as_array()?.first()?["_source"][field(column)];
                (!source.is_null()).then(|| newest(source))
            }
            _ => found["value"].as_f64().map(Told::Number),
        }
    }
}

// ---------------------------------------------------------------- as a loop

/// A field's values; a list has several.
fn values<'a>(document: &'a Row, field: &str) -> Vec<&'a Value> {
    match document.get(field) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.iter().collect(),
        Some(value) => vec![value],
    }
}

/// A number as the index holds it: a float, or milliseconds since 1970.
fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse::<jiff::Timestamp>().unwrap().as_millisecond() as f64,
        Value::Number(number) if number.is_f64() => f64::from(number.as_f64().unwrap() as f32),
        other => other.as_f64().unwrap(),
    }
}

/// A line that is drawn across, whatever the documents say.
fn fixed(column: &Value) -> Option<Told> {
    Some(Told::Number(column["params"]["value"].as_str()?.parse().ok()?))
}

fn numbers(documents: &[&Row], field: &str) -> Vec<f64> {
    documents.iter().flat_map(|document| values(document, field)).map(number).collect()
}

fn key(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Panel {
    /// The answer that these documents give.
    pub(crate) fn computed(&self, documents: &[Row]) -> Answer {
        let documents: Vec<&Row> = documents.iter().filter(|document| self.query.takes(document)).collect();
        let mut answer = Answer::new();
        self.sort_in(&documents, &mut Vec::new(), &mut answer);
        answer
    }

    fn sort_in(&self, documents: &[&Row], keys: &mut Vec<String>, into: &mut Answer) {
        let Some((_, bucket)) = self.buckets.get(keys.len()) else {
            into.insert(keys.clone(), self.figures.iter().map(|(id, c)| self.compute(id, c, documents)).collect());
            return;
        };
        let mut sorted: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
        for document in documents {
            for value in values(document, field(bucket)) {
                for key in self.keys(bucket, value) {
                    sorted.entry(key).or_default().push(document);
                }
            }
        }
        for (key, documents) in self.first(bucket, sorted) {
            keys.push(key);
            self.sort_in(&documents, keys, into);
            keys.pop();
        }
    }

    fn keys(&self, bucket: &Value, value: &Value) -> Vec<String> {
        match bucket["operationType"].as_str().unwrap() {
            "date_histogram" => {
                let at = number(value) as i64;
                vec![(at - at.rem_euclid(HOUR)).to_string()]
            }
            "range" => {
                let ranges = bucket["params"]["ranges"].as_array().unwrap().iter();
                let within = |range: &&Value| {
                    range["from"].as_f64().unwrap() <= number(value) && number(value) < range["to"].as_f64().unwrap()
                };
                ranges.filter(within).map(|range| range["label"].as_str().unwrap().to_owned()).collect()
            }
            _ => vec![key(value)],
        }
    }

    /// The buckets that are shown: of terms, the first ones.
    fn first<'a>(&self, bucket: &Value, sorted: BTreeMap<String, Vec<&'a Row>>) -> Vec<(String, Vec<&'a Row>)> {
        let mut all: Vec<(String, Vec<&Row>)> = sorted.into_iter().collect();
        if bucket["operationType"] != "terms" {
            return all;
        }
        let by_number = |(key, _): &(String, Vec<&Row>)| key.parse::<i64>().ok();
        all.sort_by(|one, other| by_number(one).cmp(&by_number(other)).then_with(|| one.0.cmp(&other.0)));
        if let Some(id) = ranked(bucket) {
            let rank = |documents: &[&Row]| match self.compute(id, &self.columns[id], documents) {
                Some(Told::Number(number)) => number,
                _ => f64::NEG_INFINITY,
            };
            all.sort_by(|one, other| rank(&other.1).partial_cmp(&rank(&one.1)).unwrap_or(Ordering::Equal));
        }
        all.truncate(bucket["params"]["size"].as_u64().unwrap() as usize);
        all
    }

    fn compute(&self, id: &str, column: &Value, documents: &[&Row]) -> Option<Told> {
        let all = documents.len() as f64;
        let taken: Vec<&Row> = match filter(column) {
            None => documents.to_vec(),
            Some(filter) => documents.iter().copied().filter(|document| filter.takes(document)).collect(),
        };
        let of = || numbers(&taken, field(column));
        let some = |number: f64| number.is_finite().then_some(Told::Number(number));
        match column["operationType"].as_str().unwrap() {
            "static_value" => fixed(column),
            "count" => Some(Told::Number(taken.len() as f64)),
            "formula" => {
                let part = filter(&self.columns[&format!("{id}X0")]).unwrap();
                some(documents.iter().filter(|document| part.takes(document)).count() as f64 / all)
            }
            "average" => some(of().iter().sum::<f64>() / of().len() as f64),
            "min" => some(of().into_iter().fold(f64::INFINITY, f64::min)),
            "max" => some(of().into_iter().fold(f64::NEG_INFINITY, f64::max)),
            "unique_count" => {
                let different: std::collections::BTreeSet<String> =
                    taken.iter().flat_map(|document| values(document, field(column))).map(key).collect();
                Some(Told::Number(different.len() as f64))
            }
            "median" => percentile(of(), 50.0),
            "percentile" => percentile(of(), column["params"]["percentile"].as_f64().unwrap()),
            "last_value" => {
                let newest = taken.iter().max_by(|one, other| text(one).cmp(text(other)))?;
                newest.get(field(column)).map(self::newest)
            }
            other => panic!("a figure by {other}"),
        }
    }

    /// True if both answers say the same. Elasticsearch estimates percentiles: one may lie where one percent more or fewer of the values
    /// lie below it, or, between many equal values, be off by 0.3 %.
    pub(crate) fn agrees(&self, found: &Answer, computed: &Answer, documents: &[Row]) -> Result<(), String> {
        let (here, there): (Vec<_>, Vec<_>) = (found.keys().collect(), computed.keys().collect());
        if here != there {
            return Err(format!("{}: buckets {here:?}, not {there:?}", self.title));
        }
        for (keys, figures) in found {
            for (at, (found, computed)) in figures.iter().zip(&computed[keys]).enumerate() {
                let same = match (found, computed) {
                    (Some(Told::Number(found)), Some(Told::Number(computed))) => near(*found, *computed),
                    (Some(Told::Percentile(found, percent)), Some(Told::Percentile(..))) => {
                        self.around(at, keys, documents, *found, *percent)
                    }
                    (found, computed) => found == computed,
                };
                if !same {
                    return Err(format!("{} {keys:?}: {found:?}, not {computed:?}", self.title));
                }
            }
        }
        Ok(())
    }

    fn around(&self, figure: usize, keys: &[String], documents: &[Row], found: f64, percent: f64) -> bool {
        let column = &self.figures[figure].1;
        let within = |document: &&Row| {
            self.query.takes(document)
                && filter(column).is_none_or(|filter| filter.takes(document))
                && self.buckets.iter().zip(keys).all(|((_, bucket), key)| {
                    values(document, field(bucket)).into_iter().any(|value| self.keys(bucket, value).contains(key))
                })
        };
        let mut values = numbers(&documents.iter().filter(within).collect::<Vec<_>>(), field(column));
        values.sort_by(f64::total_cmp);
        let place = percent / 100.0 * (values.len() - 1) as f64;
        let slack = 1.0 + values.len() as f64 / 100.0;
        let at = |place: f64| values[place.clamp(0.0, (values.len() - 1) as f64) as usize];
        let (low, high) = (at((place - slack).floor()), at((place + slack).ceil()));
        let off = 0.003 * found.abs() + 1e-6;
        low - off <= found && found <= high + off
    }
}

/// A newest value: a number is compared as one, its last digit may be read otherwise.
fn newest(value: &Value) -> Told {
    value.as_f64().map_or_else(|| Told::Text(written(value)), Told::Number)
}

/// A value as a table shows it: of a list of one, the one.
fn written(value: &Value) -> String {
    value.as_array().map_or_else(|| key(value), |items| items.iter().map(key).collect::<Vec<_>>().join(", "))
}

fn text(document: &Row) -> &str {
    document["@timestamp"].as_str().unwrap()
}

fn percentile(mut values: Vec<f64>, percent: f64) -> Option<Told> {
    values.sort_by(f64::total_cmp);
    let place = (percent / 100.0 * (values.len().checked_sub(1)?) as f64).round();
    Some(Told::Percentile(values[place as usize], percent))
}

fn near(found: f64, computed: f64) -> bool {
    (found - computed).abs() <= 1e-6 * found.abs().max(computed.abs()).max(1.0)
}

// ---------------------------------------------------------------- Kibana's query language, as far as the panels use it

/// A parsed query.
enum Query {
    All,
    Exists(String),
    Is(String, Value),
    Compare(String, &'static str, f64),
    Not(Box<Query>),
    And(Vec<Query>),
    Or(Vec<Query>),
}

impl Query {
    fn dsl(&self) -> Value {
        let all = |queries: &[Query]| queries.iter().map(Query::dsl).collect::<Vec<_>>();
        match self {
            Query::All => json!({ "match_all": {} }),
            Query::Exists(field) => json!({ "exists": { "field": field } }),
            Query::Is(field, value) => json!({ "term": { field: value } }),
            Query::Compare(field, by, than) => json!({ "range": { field: { *by: than } } }),
            Query::Not(query) => json!({ "bool": { "must_not": query.dsl() } }),
            Query::And(queries) => json!({ "bool": { "filter": all(queries) } }),
            Query::Or(queries) => json!({ "bool": { "should": all(queries), "minimum_should_match": 1 } }),
        }
    }

    fn takes(&self, document: &Row) -> bool {
        match self {
            Query::All => true,
            Query::Exists(field) => !values(document, field).is_empty(),
            Query::Is(field, wanted) => values(document, field).contains(&wanted),
            Query::Compare(field, by, than) => values(document, field).into_iter().any(|value| match *by {
                "gt" => number(value) > *than,
                "gte" => number(value) >= *than,
                "lt" => number(value) < *than,
                _ => number(value) <= *than,
            }),
            Query::Not(query) => !query.takes(document),
            Query::And(queries) => queries.iter().all(|query| query.takes(document)),
            Query::Or(queries) => queries.iter().any(|query| query.takes(document)),
        }
    }
}

fn parse(text: &str) -> Query {
    if text.is_empty() {
        return Query::All;
    }
    let mut words = words(text);
    words.reverse();
    let query = any(&mut words);
    assert!(words.is_empty(), "what remains of {text:?}: {words:?}");
    query
}

fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in text.chars() {
        match letter {
            '"' => {
                // The quotes stay: "true" is no truth.
                quoted = !quoted;
                word.push('"');
            }
            ' ' | '(' | ')' | ':' if !quoted => {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                words.extend((letter != ' ').then(|| letter.to_string()));
            }
            letter => word.push(letter),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

fn joined(words: &mut Vec<String>, by: &str, part: fn(&mut Vec<String>) -> Query) -> Vec<Query> {
    let mut parts = vec![part(words)];
    while words.last().is_some_and(|word| word == by) {
        words.pop();
        parts.push(part(words));
    }
    parts
}

fn any(words: &mut Vec<String>) -> Query {
    let mut parts = joined(words, "or", all);
    if parts.len() == 1 { parts.remove(0) } else { Query::Or(parts) }
}

fn all(words: &mut Vec<String>) -> Query {
    let mut parts = joined(words, "and", one);
    if parts.len() == 1 { parts.remove(0) } else { Query::And(parts) }
}

fn one(words: &mut Vec<String>) -> Query {
    let word = words.pop().expect("a query");
    match word.as_str() {
        "NOT" => Query::Not(Box::new(one(words))),
        "(" => {
            let query = any(words);
            assert_eq!(words.pop().as_deref(), Some(")"));
            query
        }
        field => {
            let (relation, value) = (words.pop().expect("a relation"), words.pop().expect("a value"));
            let by = [(">", "gt"), (">=", "gte"), ("<", "lt"), ("<=", "lte")];
            match by.into_iter().find(|(sign, _)| *sign == relation) {
                Some((_, by)) => Query::Compare(field.to_owned(), by, value.parse().expect("a number")),
                None if value == "*" => Query::Exists(field.to_owned()),
                None => Query::Is(field.to_owned(), literal(&value)),
            }
        }
    }
}

fn literal(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        text => text.trim_matches('"').into(),
    }
}
