package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

var (
	pipelineName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)
	postgresSlot = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	topicName    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`) // org.apache.kafka.common.internals.Topic
)

// validate checks every value and how values agree. Each error's Path is the key
// to change. Nothing is dialled and no file is read: that is walferry check.
func (c *Config) validate() ErrorList {
	v := &validator{}
	v.enums("", reflect.ValueOf(c).Elem())

	v.check(c.Name != "", "name", "the pipeline has no name", "write name: and a short word such as shop")
	v.check(c.Name == "" || pipelineName.MatchString(c.Name), "name", fmt.Sprintf("%q cannot be part of a topic's name", c.Name), "use letters, digits, _ - and . only, 100 at most")

	c.validateSource(v)
	c.validateKafka(v)
	c.validateRegistry(v)

	distinct(v, "schema.columns", c.Schema.Columns, 3, "schema.table.column")
	distinct(v, "schema.keys", c.Schema.Keys, 2, "schema.table")
	for key, columns := range c.Schema.Keys {
		v.check(len(columns) > 0, "schema.keys."+key, "the key has no columns", "list them, or leave the table out to use its replica identity")
	}
	c.validateTables(v)
	v.subject(c.Schema.Subject)
	c.validateBackfill(v)
	if t := c.Schema.ChangesTopic; t != "" {
		v.check(topicName.MatchString(t), "schema.changes_topic", fmt.Sprintf("%q is not a topic name", t), "use letters, digits, _ - and . only, 249 at most")
		v.check(t != c.Checkpoint.Topic && t != c.Registry.Topic, "schema.changes_topic", "this topic is walferry's own", "give the schema changes a topic of their own")
	}
	v.span("drain_timeout", c.DrainTimeout, Duration(time.Second), Duration(10*time.Minute))
	named := pipelineName.MatchString(c.Name) // else what derives from it is not judged too
	v.check(topicName.MatchString(c.Checkpoint.Topic) || !named, "checkpoint.topic", fmt.Sprintf("%q is not a topic name", c.Checkpoint.Topic), "use letters, digits, _ - and . only, 249 at most")
	v.check(c.Checkpoint.ReplicationFactor >= 0, "checkpoint.replication_factor", "a topic cannot have a negative number of replicas", "write a number from 1, or 0 for the broker's default")
	if c.Admin.Listen != "" {
		v.address("admin.listen", c.Admin.Listen)
	}
	return v.errs
}

func (c *Config) validateBackfill(v *validator) {
	b := &c.Backfill
	for key, mode := range b.Tables {
		v.pattern("backfill.tables."+key, key, 2, "schema.table")
		v.check(mode == "initial" || mode == "none", "backfill.tables."+key, fmt.Sprintf("%q is no mode", mode), "write initial or none")
	}
	v.check(b.Workers >= 1 && b.Workers <= 32, "backfill.workers", fmt.Sprintf("%d workers", b.Workers), "write a number from 1 to 32")
	v.check(b.BufferBytes >= 1<<20, "backfill.buffer_bytes", "a chunk needs some room", "write 1MiB or more")
	for i, key := range b.First {
		v.pattern(fmt.Sprintf("backfill.first[%d]", i), key, 2, "schema.table")
	}
	v.check(b.RowsPerSecond >= 0, "backfill.rows_per_second", "a rate cannot be negative", "write a number of rows, or 0 for no limit")
	v.check(b.BytesPerSecond == 0 || b.BytesPerSecond >= 1<<10, "backfill.bytes_per_second", "a chunk needs some room", "write 1KiB or more, or 0 for no limit")
	v.check(b.MaxSessions >= 0, "backfill.max_sessions", "their number cannot be negative", "write a number, or 0 for no limit")
	v.span("backfill.statement_timeout", b.StatementTimeout, Duration(time.Second), Duration(time.Hour))
	v.span("backfill.chunk_time", b.ChunkTime, Duration(10*time.Millisecond), Duration(time.Minute))
}

func (c *Config) validateTables(v *validator) {
	distinct(v, "schema.tables", c.Schema.Tables, 2, "schema.table")
	at := map[string][]string{} // tables by the topic that is named for them
	for _, key := range slices.Sorted(maps.Keys(c.Schema.Tables)) {
		t := c.Schema.Tables[key]
		v.check(!strings.Contains(key, "*") || strings.Contains(key, `"`), "schema.tables."+key, "a wildcard stands for no single table here", "name each table")
		if t.Topic != "" {
			path := "schema.tables." + key + ".topic"
			v.check(topicName.MatchString(t.Topic), path, fmt.Sprintf("%q is not a topic name", t.Topic), "use letters, digits, _ - and . only, 249 at most")
			v.check(c.OwnTopic(t.Topic) == "", path, "this topic is walferry's own, for "+c.OwnTopic(t.Topic), "give the table another one")
			at[t.Topic] = append(at[t.Topic], key)
		}
	}
	for topic, keys := range at {
		for _, key := range keys {
			level := func(key string) string { return cmp.Or(c.Schema.Tables[key].Compatibility, c.Schema.Compatibility) }
			v.check(level(key) == level(keys[0]), "schema.tables."+key+".compatibility",
				fmt.Sprintf("%s, which has the same topic and so the same subjects, has the level %s", keys[0], level(keys[0])), "write the same level for both")
			v.check(len(keys) == 1 || cmp.Or(c.Schema.Tables[key].OnIncompatible, c.Schema.OnIncompatible) != "new-topic", "schema.tables."+key+".on_incompatible",
				"with new-topic one table would move out of the topic "+topic+" that several share", "write stop or force for each of them")
		}
	}
}

func (c *Config) validateSource(v *validator) {
	s := &c.Source
	v.check(s.DSN == "" || s.DSNFile == "", "source.dsn_file", "both dsn and dsn_file are given", "keep one of them")
	choices := 0
	for _, set := range []bool{len(s.Tables) > 0, len(s.Schemas) > 0, s.AllTables} {
		if set {
			choices++
		}
	}
	v.check(choices > 0, "source.tables", "nothing is captured", "list tables (such as public.*) or schemas, or set all_tables: true")
	v.check(!s.AllTables || choices == 1, "source.all_tables", "all_tables captures everything, so tables and schemas say nothing", "keep either all_tables with exclude, or tables and schemas")
	for i, p := range s.Tables {
		v.pattern(fmt.Sprintf("source.tables[%d]", i), p, 2, "schema.table")
	}
	for i, p := range s.Exclude {
		v.pattern(fmt.Sprintf("source.exclude[%d]", i), p, 2, "schema.table")
	}
	for i, p := range s.ExcludeColumns {
		v.pattern(fmt.Sprintf("source.exclude_columns[%d]", i), p, 3, "schema.table.column")
	}
	for i, p := range s.Schemas {
		v.pattern(fmt.Sprintf("source.schemas[%d]", i), p, 1, "schema")
	}
	v.check(c.Name == "" && s.Slot.Name == "" || postgresSlot.MatchString(s.Slot.Name), "source.slot.name",
		fmt.Sprintf("%q is not a slot name that Postgres takes", s.Slot.Name), "use lower-case letters, digits and _, 63 at most")
	v.check(len(s.Publication.Name) <= 63, "source.publication.name", "the name is longer than the 63 bytes that Postgres keeps", "shorten it")
	v.span("source.heartbeat", s.Heartbeat, Duration(time.Second), Duration(time.Hour))
	v.span("source.wal_sender_timeout", s.WALSenderTimeout, Duration(time.Second), Duration(time.Hour))
	v.span("source.stall_limit", s.StallLimit, Duration(time.Second), Duration(time.Hour))
	v.size("source.buffer_bytes", s.BufferBytes, 1<<20, 4<<30)
	v.size("source.max_row_bytes", s.MaxRowBytes, 64<<10, 1<<30)
}

func (c *Config) validateKafka(v *validator) {
	k := &c.Kafka
	v.check(len(k.Brokers) > 0, "kafka.brokers", "no broker is given", "list at least one as host:port, such as localhost:9092")
	for i, b := range k.Brokers {
		v.address(fmt.Sprintf("kafka.brokers[%d]", i), b)
	}
	v.tls("kafka.tls", &k.TLS)
	v.check(k.SASL.Password == "" || k.SASL.PasswordFile == "", "kafka.sasl.password_file", "both password and password_file are given", "keep one of them")
	if k.SASL.Mechanism != "" {
		v.check(k.SASL.User != "", "kafka.sasl.user", "the mechanism "+k.SASL.Mechanism+" needs a user", "write user: and password: or password_file:")
		v.check(k.SASL.Password != "" || k.SASL.PasswordFile != "", "kafka.sasl.password", "the mechanism "+k.SASL.Mechanism+" needs a password", "write password: ${KAFKA_PASSWORD}, or password_file:")
	} else {
		v.check(k.SASL.User == "" && k.SASL.Password == "" && k.SASL.PasswordFile == "", "kafka.sasl.mechanism", "a user or password is given but no mechanism", "write plain, scram-sha-256 or scram-sha-512")
	}

	t := &k.Topic
	v.check(topicName.MatchString(t.Prefix) || t.Prefix == c.Name, "kafka.topic.prefix", fmt.Sprintf("%q cannot begin a topic's name", t.Prefix), "use letters, digits, _ - and . only")
	v.template(t.Template)
	v.check(t.Partitions >= 1, "kafka.topic.partitions", "a topic has at least one partition", "write a number from 1")
	v.check(t.ReplicationFactor >= 0, "kafka.topic.replication_factor", "a topic cannot have a negative number of replicas", "write a number from 1, or 0 for the broker's default")
	_, twice := t.Config["cleanup.policy"]
	v.check(!twice, "kafka.topic.config.cleanup.policy", "the cleanup policy has a key of its own", "write kafka.topic.cleanup_policy instead")

	v.span("kafka.transaction_timeout", k.TransactionTimeout, Duration(5*time.Second), Duration(15*time.Minute))
	v.check(k.PublishTimeout > 0 && k.PublishTimeout < k.TransactionTimeout, "kafka.publish_timeout",
		fmt.Sprintf("%s is not between 0 and kafka.transaction_timeout, which is %s", k.PublishTimeout, k.TransactionTimeout), "shorten it, or lengthen transaction_timeout: otherwise the broker aborts transactions that are still being published")
	v.check(k.RequestTimeout > 0 && k.RequestTimeout < k.PublishTimeout, "kafka.request_timeout",
		fmt.Sprintf("%s is not between 0 and kafka.publish_timeout, which is %s", k.RequestTimeout, k.PublishTimeout), "shorten it, so that a request can be tried again within publish_timeout")
	v.size("kafka.batch_bytes", k.BatchBytes, 64<<10, 1<<30)
}

func (c *Config) validateRegistry(v *validator) {
	r := &c.Registry
	v.check(r.Auth.Password == "" || r.Auth.PasswordFile == "", "registry.auth.password_file", "both password and password_file are given", "keep one of them")
	secret := r.Auth.Password != "" || r.Auth.PasswordFile != ""
	v.check(!secret || r.Auth.User != "", "registry.auth.user", "a password is given but no user", "write user:")
	v.check(r.Auth.User == "" || secret, "registry.auth.password", "a user is given but no password", "write password: ${REGISTRY_PASSWORD}, or password_file:")
	token := r.Auth.Token != "" || r.Auth.TokenFile != ""
	v.check(r.Auth.Token == "" || r.Auth.TokenFile == "", "registry.auth.token_file", "both token and token_file are given", "keep one of them")
	v.check(!token || r.Auth.User == "", "registry.auth.token", "both a user and a token are given", "keep one of them")
	v.tls("registry.tls", &r.TLS)
	if r.Mode == "external" {
		u, err := url.Parse(r.URL)
		v.check(r.URL != "", "registry.url", "an external registry needs its URL", "write url: https://host:port, or mode: built-in")
		v.check(r.URL == "" || err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", "registry.url", "this is not an http or https URL", "write it as https://host:port")
		v.check(err != nil || u.User == nil, "registry.url", "the URL has a user in it, which logs would show", "write registry.auth.user and registry.auth.password instead")
		const external = "this is about the built-in registry, and the configured one is external"
		v.check(!r.AllowAnonymousWrites, "registry.allow_anonymous_writes", external, "leave it out")
		v.check(r.AllowAnonymousReads, "registry.allow_anonymous_reads", external, "leave it out")
		v.check(len(r.Users) == 0, "registry.users", external, "leave it out")
		v.check(r.ListenTLS == ListenTLS{}, "registry.listen_tls", external, "leave it out, or write registry.tls")
		v.check(r.Advertise == "", "registry.advertise", external, "leave it out")
		v.span("registry.timeout", r.Timeout, Duration(100*time.Millisecond), Duration(5*time.Minute))
		return
	}
	v.address("registry.listen", r.Listen)
	if r.Advertise != "" {
		u, err := url.Parse(r.Advertise)
		v.check(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" && u.Fragment == "", "registry.advertise", "this is not an http or https URL", "write it as https://host:port")
		v.check(err != nil || u.User == nil, "registry.advertise", "the URL has a user in it, and stands in the topic for all to read", "leave the user out: who passes a write on sends the caller's")
	}
	v.check(!r.AllowAnonymousWrites || r.AllowAnonymousReads, "registry.allow_anonymous_reads", "anyone may write and nobody may read", "leave allow_anonymous_writes out")
	v.check(r.AllowAnonymousReads || r.Auth.User != "" || token, "registry.auth", "reads ask for a user, and walferry's own commands have none", "write registry.auth.user and registry.auth.password_file")
	for _, name := range slices.Sorted(maps.Keys(r.Users)) {
		u := r.Users[name]
		path := "registry.users." + name
		v.check(u.Role != "", path+".role", "this user has no role", "write role: read, or role: write")
		v.check(u.Role != "read" || !r.AllowAnonymousReads, path+".role", "anyone may read without being this user", "write registry.allow_anonymous_reads: false")
		given := 0
		for _, has := range []bool{u.Password != "", u.PasswordFile != "", u.Token != "", u.TokenFile != ""} {
			if has {
				given++
			}
		}
		v.check(given == 1, path, fmt.Sprintf("this user has %d of password, password_file, token and token_file", given), "give one of them")
		v.check(name != r.Auth.User, path, "this user is registry.auth.user", "give it another name, or leave it out")
		v.check(!strings.Contains(name, ":"), path, "a user's name has no colon (RFC 7617)", "give it another name")
	}
	l := &r.ListenTLS
	v.check((l.CertFile == "") == (l.KeyFile == ""), "registry.listen_tls", "cert_file and key_file belong together", "give both or neither")
	v.check(l.ClientCAFile == "" || l.CertFile != "", "registry.listen_tls.client_ca_file", "client certificates are asked for in TLS only", "give cert_file and key_file")
	v.check(topicName.MatchString(r.Topic), "registry.topic", fmt.Sprintf("%q is not a topic name", r.Topic), "use letters, digits, _ - and . only, 249 at most")
}

type validator struct{ errs ErrorList }

// check reports problem at path unless ok. It is called for every rule, so that
// one run tells everything.
func (v *validator) check(ok bool, path, problem, remedy string) {
	if !ok {
		v.errs = append(v.errs, &Error{Path: path, Problem: problem, Remedy: remedy})
	}
}

// enums checks every value whose struct tag lists the allowed ones.
func (v *validator) enums(path string, s reflect.Value) {
	for _, f := range fields(s.Type()) {
		at, value := join(path, f.key), s.Field(f.index)
		if value.Kind() == reflect.Struct {
			v.enums(at, value)
			continue
		}
		if value.Kind() == reflect.Map && value.Type().Elem().Kind() == reflect.Struct {
			for _, k := range value.MapKeys() {
				v.enums(join(at, k.String()), value.MapIndex(k))
			}
			continue
		}
		if f.enum == nil || slices.Contains(f.enum, value.String()) {
			continue
		}
		if strings.HasPrefix(at, "errors.") && slices.Contains([]string{"dlq", "skip"}, value.String()) {
			v.check(false, at, fmt.Sprintf("the policy %s is not available, because this version has no dead letters and would lose the change", value), "write stop, which stops the stream before the change and loses nothing")
			continue
		}
		names := slices.DeleteFunc(slices.Clone(f.enum), func(s string) bool { return s == "" })
		v.check(false, at, fmt.Sprintf("%q is not a choice", value.String()), "write "+alternatives(names))
	}
}

func alternatives(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

func (v *validator) span(path string, d, least, most Duration) {
	v.check(d >= least && d <= most, path, fmt.Sprintf("%s is out of range", d), fmt.Sprintf("write a duration from %s to %s", least, most))
}

func (v *validator) size(path string, s, least, most Size) {
	v.check(s >= least && s <= most, path, fmt.Sprintf("%s is out of range", s), fmt.Sprintf("write a size from %s to %s", least, most))
}

func (v *validator) address(path, addr string) {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(port, 10, 16)
		if n == 0 && strings.HasPrefix(path, "kafka.") {
			err = strconv.ErrRange
		}
	}
	v.check(err == nil, path, fmt.Sprintf("%q is not an address", addr), "write it as host:port, with a numeric port")
}

func (v *validator) tls(path string, t *TLS) {
	v.check(t.Enabled || *t == TLS{}, path+".enabled", "TLS settings are given but TLS is not enabled", "write enabled: true, or leave them out")
	v.check((t.CertFile == "") == (t.KeyFile == ""), path+".cert_file", "a client certificate needs both cert_file and key_file", "give both or neither")
}

// pattern checks that p has the parts of a qualified name, as package source
// reads it: a part in double quotes is taken as it is, "" in it is a quote. It says
// whether that is so.
func (v *validator) pattern(path, p string, parts int, form string) bool {
	n, rest, ok := 0, p, true
	for ok {
		n++
		i := strings.IndexAny(rest, `."`)
		switch {
		case strings.HasPrefix(rest, `"`):
			i = 1
			for i < len(rest) && (rest[i] != '"' || strings.HasPrefix(rest[i+1:], `"`)) {
				if rest[i] == '"' {
					i++
				}
				i++
			}
			ok = i > 1 && i < len(rest)
			i++
		case i < 0:
			ok, i = rest != "", len(rest)
		default:
			ok = i > 0
		}
		if !ok || i == len(rest) {
			break
		}
		ok = rest[i] == '.'
		rest = rest[i+1:]
	}
	ok = ok && n == parts
	v.check(ok, path, fmt.Sprintf("%q is not of the form %s", p, form), "write "+form+"; * is a wildcard, and a name with a dot in it is put in double quotes")
	return ok
}

// distinct checks the keys of m, which are qualified names: two of them may not be one name in two spellings.
func distinct[T any](v *validator, path string, m map[string]T, n int, form string) {
	first := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !v.pattern(path+"."+key, key, n, form) {
			continue
		}
		name := strings.Join(parts(key), "\x00") // which no name of Postgres has
		other, twice := first[name]
		v.check(!twice, path+"."+key, "this is "+other+" in another spelling", "write both under one of them")
		first[name] = key
	}
}

// subject checks that a key's subject is never a value's, and that tables do not have one subject all.
func (v *validator) subject(s string) {
	const path = "schema.subject"
	rest := strings.NewReplacer("{topic}", "t", "{record}", "r", "{kind}", "k").Replace(s)
	topic, record, kind := strings.Contains(s, "{topic}"), strings.Contains(s, "{record}"), strings.Contains(s, "{kind}")
	switch {
	case subjects[s] != "":
	case !strings.Contains(s, "{"):
		v.check(false, path, fmt.Sprintf("%q is not a choice", s), "write topic, record or topic-record, or a template such as {topic}-{kind}")
	case strings.ContainsAny(rest, "{}"), strings.ContainsFunc(rest, unicode.IsControl):
		v.check(false, path, fmt.Sprintf("%q does not make names of subjects", s), "use {topic}, {record} and {kind}, and no other braces or control characters")
	case !topic && !record:
		v.check(false, path, "all tables would have the same subjects", "write {topic} or {record} into it")
	case !kind && !record:
		v.check(false, path, "key and value of a table would have the same subject", "write {kind} or {record} into it")
	case strings.HasPrefix(s, ":"):
		v.check(false, path, "what begins with a colon names a context of the registry, whose ids readers of events do not find", "begin it with something else")
	}
}

// template checks that every table gets a topic of its own.
func (v *validator) template(t string) {
	rest := strings.NewReplacer("{prefix}", "p", "{schema}", "s", "{table}", "t").Replace(t)
	v.check(topicName.MatchString(rest), "kafka.topic.template", fmt.Sprintf("%q does not make topic names", t), "use {prefix}, {schema} and {table} between letters, digits, _ - and .")
	v.check(strings.Contains(t, "{table}"), "kafka.topic.template", "without {table} every table would go to one topic", "write {table} into it")
}
