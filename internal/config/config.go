// Package config reads walferry's one configuration file.
//
// The file is YAML. A scalar may hold ${NAME} or ${NAME:-default}, which are
// replaced from the environment after the YAML was parsed, so that a value of
// the environment is never read as YAML; $${ stands for a literal ${. Keys that
// the structs below do not have are errors, and every error says the file, the
// line and the column, what is wrong, and what to write instead.
//
// The structs are the only description of the format: the defaults (Default),
// the JSON Schema for editors (JSONSchema), the effective configuration (Print)
// and the reference in docs/configuration.md all come out of them.
//
// A secret can be written in place, come from the environment, or be named by a
// key ending in _file that holds the path of a file with the secret in it. Files
// are read by the accessors (such as SASL.ReadPassword) when the secret is
// needed, not at load time, so a rotated secret is taken at the next connection.
package config

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Config is the whole file. A value out of Load has its defaults filled in and
// is valid. Struct tags: yaml is the key, doc its description, enum the allowed
// values, example a value for the reference where there is no default.
type Config struct {
	Name         string     `yaml:"name" doc:"Name of the pipeline. The topics' default prefix, the slot, the publication, the checkpoint topic and the transactional id are named after it; two pipelines on one Kafka cluster must not share it." example:"shop"`
	Source       Source     `yaml:"source" doc:"The Postgres database to read."`
	Kafka        Kafka      `yaml:"kafka" doc:"The Kafka cluster to publish to, 3.9 or newer."`
	Schema       Schema     `yaml:"schema" doc:"How rows become Avro."`
	Backfill     Backfill   `yaml:"backfill" doc:"The copy of the rows that are in a table when its capture begins."`
	Registry     Registry   `yaml:"registry" doc:"The schema registry: built in, or an external one by URL."`
	Checkpoint   Checkpoint `yaml:"checkpoint" doc:"Where progress is saved."`
	Errors       Errors     `yaml:"errors" doc:"What happens to a change that cannot be published. Only stop exists so far: the stream stops before it, and nothing is lost."`
	Admin        Admin      `yaml:"admin" doc:"The HTTP listener with /healthz, /readyz, /metrics and /status."`
	Log          Log        `yaml:"log" doc:"Logging. Values of rows are never logged."`
	DrainTimeout Duration   `yaml:"drain_timeout" doc:"How long a stop by SIGTERM may take to publish what was read and to confirm it. What does not end in time is settled at the next start; nothing is lost or repeated."`
	Standby      bool       `yaml:"standby" doc:"What an instance does that another one has taken over from: true, wait as its standby; false, exit with code 7. With false an instance that finds the slot held at its own start waits for wal_sender_timeout, since a holder that died gives it back by then, and exits with code 7 too."`
}

// Source says what is read and how.
type Source struct {
	DSN              Secret      `yaml:"dsn" doc:"Connection string, as a URL or as key=value pairs; libpq's PG* variables fill in what it leaves out. Several hosts may be given, with target_session_attrs=read-write." example:"postgres://walferry@localhost/shop?sslmode=verify-full"`
	DSNFile          string      `yaml:"dsn_file" doc:"File that holds the connection string, instead of dsn."`
	PasswordFile     string      `yaml:"password_file" doc:"File that holds the password. It is read again at every connection, so the password can be changed while walferry runs."`
	Tables           []string    `yaml:"tables" doc:"Tables to capture, as schema.table; * stands for any characters. Names are compared exactly; one with a dot or a star in it is double-quoted." example:"[public.*]"`
	Exclude          []string    `yaml:"exclude" doc:"Tables that tables, schemas or all_tables would capture and that shall not be, in the same form."`
	ExcludeColumns   []string    `yaml:"exclude_columns" doc:"Columns never to be published, as schema.table.column; * stands for any characters. Columns of the replica identity cannot be left out." example:"[public.users.password_hash]"`
	Schemas          []string    `yaml:"schemas" doc:"Schemas, by name or pattern, of which every table is captured, those created later included."`
	AllTables        bool        `yaml:"all_tables" doc:"Capture every table of the database, those created later included."`
	Slot             Slot        `yaml:"slot" doc:"The replication slot."`
	Publication      Publication `yaml:"publication" doc:"The publication."`
	Heartbeat        Duration    `yaml:"heartbeat" doc:"After this long without a delivered transaction walferry writes a small one of its own, so that an idle database's slot moves on and readiness can be proven. Readiness wants a delivery within two of these."`
	WALSenderTimeout Duration    `yaml:"wal_sender_timeout" doc:"wal_sender_timeout of walferry's own replication connection: how soon the server lets go of the slot when walferry died without closing its socket."`
	StallLimit       Duration    `yaml:"stall_limit" doc:"How long reading may stand still because Kafka or the schema registry does not answer before the replication connection is closed and the slot given back. A walsender stuck in send would keep its server from shutting down."`
	BufferBytes      Size        `yaml:"buffer_bytes" doc:"Memory for frames that were read and not yet encoded. When it is spent walferry stops reading, and the server waits."`
	MaxRowBytes      Size        `yaml:"max_row_bytes" doc:"The largest single frame that is accepted; a larger one stops the stream with an error. A row needs some three times its size in memory."`
}

// Slot is the replication slot's section.
type Slot struct {
	Name     string `yaml:"name" doc:"Name of the slot; default walferry_ and the pipeline's name."`
	Create   bool   `yaml:"create" doc:"Create the slot at the first start. With false it must exist (walferry setup prints the SQL), and adopt says that it may be taken."`
	Adopt    bool   `yaml:"adopt" doc:"Take a slot that was made beforehand, beginning at its confirmed position. Changes before that are not published."`
	Failover bool   `yaml:"failover" doc:"Create the slot with the failover option (Postgres 17 and newer), so that it is kept on standbys."`
}

// Publication is the publication's section.
type Publication struct {
	Name   string `yaml:"name" doc:"Name of the publication; default the slot's name."`
	Create bool   `yaml:"create" doc:"Create the publication at the first start and keep it in step with the configured tables. With false it is used as it is."`
}

// Kafka says where to publish.
type Kafka struct {
	Brokers            []string `yaml:"brokers" doc:"Bootstrap brokers as host:port; a single string is split at commas." example:"[localhost:9092]"`
	ClientID           string   `yaml:"client_id" doc:"Client id that brokers see in logs and quotas."`
	TLS                TLS      `yaml:"tls" doc:"TLS to the brokers."`
	SASL               SASL     `yaml:"sasl" doc:"Authentication to the brokers."`
	Topic              Topic    `yaml:"topic" doc:"Names and settings of the event topics."`
	Compression        string   `yaml:"compression" enum:"none,gzip,snappy,lz4,zstd" doc:"Compression of record batches."`
	TransactionalID    string   `yaml:"transactional_id" doc:"Transactional id; default walferry- and the pipeline's name. Whoever uses the same id fences the other out."`
	TransactionTimeout Duration `yaml:"transaction_timeout" doc:"transaction.timeout of the producer: a broker aborts a transaction that was left open for longer. At most the broker's transaction.max.timeout.ms (15m)."`
	PublishTimeout     Duration `yaml:"publish_timeout" doc:"Deadline of publishing one batch, retries included; must be shorter than transaction_timeout."`
	RequestTimeout     Duration `yaml:"request_timeout" doc:"Deadline of one request to a broker; must be shorter than publish_timeout."`
	BatchBytes         Size     `yaml:"batch_bytes" doc:"Upper limit of one Kafka transaction, before compression. A larger source transaction is split over several, and its events say so."`
}

// TLS is a client's TLS section.
type TLS struct {
	Enabled            bool   `yaml:"enabled" doc:"Use TLS. Setting any other key here without it is an error."`
	CAFile             string `yaml:"ca_file" doc:"PEM file with the authorities to trust; default the system's."`
	CertFile           string `yaml:"cert_file" doc:"PEM file with the client certificate."`
	KeyFile            string `yaml:"key_file" doc:"PEM file with the client certificate's key."`
	ServerName         string `yaml:"server_name" doc:"Name to expect in the server's certificate; default the host that is dialled."`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" doc:"Accept any certificate. For tests only: whoever sits between can read and change everything."`
}

// SASL is the brokers' authentication section.
type SASL struct {
	Mechanism    string `yaml:"mechanism" enum:",plain,scram-sha-256,scram-sha-512" doc:"SASL mechanism; empty means none. With plain the password crosses the network as it is, so use TLS."`
	User         string `yaml:"user" doc:"User name."`
	Password     Secret `yaml:"password" doc:"Password."`
	PasswordFile string `yaml:"password_file" doc:"File that holds the password, instead of password."`
}

// ReadPassword returns the password, from its file if one is named.
func (s *SASL) ReadPassword() (string, error) {
	return read(s.Password, s.PasswordFile, "kafka.sasl.password_file")
}

// Topic says what event topics are called and how they are created.
type Topic struct {
	Prefix            string            `yaml:"prefix" doc:"First part of every topic's name; default the pipeline's name."`
	Template          string            `yaml:"template" doc:"Name of a table's topic; {prefix}, {schema} and {table} are replaced."`
	Create            bool              `yaml:"create" doc:"Create topics that are missing. With false a missing topic stops the stream with an error."`
	Partitions        int               `yaml:"partitions" doc:"Partitions of a topic that walferry creates. An existing topic must have as many; changing the number later breaks the order per key at that point."`
	ReplicationFactor int               `yaml:"replication_factor" doc:"Replicas of a topic that walferry creates; 0 takes the broker's default."`
	CleanupPolicy     string            `yaml:"cleanup_policy" enum:"delete,compact,compact+delete" doc:"cleanup.policy of a topic that walferry creates. A table without a key cannot go to a compacted topic."`
	Config            map[string]string `yaml:"config" doc:"Further settings of topics that walferry creates, by Kafka's names, such as retention.ms."`
}

// Schema says how rows become Avro.
type Schema struct {
	Envelope       string              `yaml:"envelope" enum:"debezium,row" doc:"debezium: before, after, op, source, ts_ms, transaction. row: the row itself, a tombstone for a delete, the rest in headers."`
	UpdateBefore   string              `yaml:"update_before" enum:"sent,key" doc:"What before is in an update whose old row Postgres does not send: replica identity default or index, key unchanged. sent: null. key: the columns of the replica identity, all others null, for readers that want a before in every update, such as Flink's debezium-avro-confluent."`
	Numeric        string              `yaml:"numeric" enum:"precise,string,double" doc:"Of numeric(p,s). precise: an Avro decimal, which NaN does not fit into. string: the text that Postgres prints. double: the nearest double."`
	Unconstrained  string              `yaml:"numeric_unconstrained" enum:"string,variable-scale,double" doc:"Of numeric without a precision. string: the text that Postgres prints. variable-scale: Debezium's record of scale and unscaled value, which NaN and Infinity do not fit into. double: the nearest double."`
	Time           string              `yaml:"time" enum:"avro,connect,plain,iso" doc:"Of date, time, timestamp and timestamptz. avro: numbers of days or microseconds with Avro's logical types. connect: Kafka Connect's Date, Time and Timestamp, which are milliseconds; what is finer is cut off. plain: the numbers of avro without logical types, for readers that fail on infinity and on years outside 1-9999. iso: the text that Postgres prints."`
	Binary         string              `yaml:"binary" enum:"bytes,base64,hex" doc:"Of bytea: Avro bytes, or a string in base64 or hexadecimal digits."`
	Enum           string              `yaml:"enum" enum:"string,enum" doc:"string: the label; the property labels has all of them. enum: an Avro enum; labels that Avro does not allow as symbols are changed as column names are. In a key it is a string."`
	Range          string              `yaml:"range" enum:"text,record" doc:"Of ranges and multiranges. text: what Postgres prints. record: lower, upper, lower_inclusive, upper_inclusive and empty; a multirange is an array of these."`
	Array          string              `yaml:"array" enum:"array,text" doc:"array: one-dimensional arrays are Avro arrays. text: what Postgres prints, of any dimensions and bounds."`
	Toast          string              `yaml:"toast" enum:"mark,placeholder,refetch" doc:"Of a large value that an update left alone, which the server sends with replica identity full only. In all cases the event names it in unavailable, unless it was read. mark: null. placeholder: what Debezium writes, where the type has room for it. refetch: the value of now, read by key, many rows with one question where they come close to one another; it may be newer than the event."`
	Collisions     string              `yaml:"collisions" enum:"error,suffix" doc:"When two columns of a table, attributes of a composite or labels of an Avro enum become the same Avro name. error: the stream stops and names both. suffix: the second gets _2, the third _3; a column dropped or added before it can change its number."`
	Columns        map[string]Column   `yaml:"columns" doc:"The choices from numeric to toast for single columns, by schema.table.column." example:"{public.orders.amount: {numeric: string}}"`
	Keys           map[string][]string `yaml:"keys" doc:"Columns of the record key by schema.table, instead of those of the replica identity. They must be part of it, unless it is full." example:"{public.orders: [customer_id, id]}"`
	Truncate       string              `yaml:"truncate" enum:"emit,skip,stop" doc:"emit: a truncate event to every partition of the table's topic. skip: none, counted in the metrics. stop: the stream stops before it. A truncate event has no key, so a compacted topic cannot take it."`
	Subject        string              `yaml:"subject" doc:"Names of the subjects in the registry: topic, record or topic-record, as Confluent's TopicNameStrategy, RecordNameStrategy and TopicRecordNameStrategy make them, or a template of one's own with {topic}, {record} (full name of the schema's record) and {kind} (key or value). topic is {topic}-{kind}, record is {record}, topic-record is {topic}-{record}."`
	Compatibility  string              `yaml:"compatibility" enum:"none,backward,backward_transitive,forward,forward_transitive,full,full_transitive" doc:"Compatibility level of the subjects that walferry creates; it is set once, before the first version, and never touched afterwards. Adding and dropping columns is compatible under every level."`
	OnIncompatible string              `yaml:"on_incompatible" enum:"stop,force,new-topic" doc:"When the registry refuses a new version of a table's schema as incompatible. stop: the stream stops before the first event that needs it. force: it is registered all the same, and readers that use it on older events fail. new-topic: the table's events go on in the topic <topic>.v2 (then .v3 and so on), which has subjects of its own."`
	Tables         map[string]Table    `yaml:"tables" doc:"Choices for single tables, by schema.table: compatibility, on_incompatible and toast as above, and topic, the table's topic instead of the one that kafka.topic.template gives it. Tables for which the same topic is named here share it; no others may." example:"{public.orders: {on_incompatible: new-topic, toast: refetch}, 'public.\"odd name\"': {topic: shop.odd-name}}"`
	ChangesTopic   string              `yaml:"changes_topic" doc:"Topic that gets one JSON record for each change of a captured table's columns, types or keys, in the transaction of the first event after it; empty turns it off." example:"shop.schema-changes"`
}

// Backfill says which rows are copied that were there before, and how.
type Backfill struct {
	Mode             string            `yaml:"mode" short:"yes" enum:"initial,none" doc:"Of a table whose capture begins, with the first start or later. initial: its rows are copied once, while its changes are streamed. none: only changes are published. The section can be this one word: backfill: none."`
	Tables           map[string]string `yaml:"tables" doc:"The mode of single tables, by schema.table." example:"{public.audit: none}"`
	Workers          int               `yaml:"workers" doc:"Connections that read beside each other, each a chunk of a table."`
	First            []string          `yaml:"first" doc:"Tables that are copied before others, in this order, by schema.table; * stands for any characters. Behind them, and among those of one entry, smaller tables come before larger ones." example:"[public.orders, shop.*]"`
	BufferBytes      Size              `yaml:"buffer_bytes" doc:"Memory of all copies: one half for rows that were read and wait for their place in the stream, the other for what is noted of changes that the stream brings meanwhile. A single row may overdraw it."`
	ChunkTime        Duration          `yaml:"chunk_time" doc:"How long reading a chunk is meant to take: no transaction of the copy is open much longer. Chunks grow and shrink until they do."`
	StatementTimeout Duration          `yaml:"statement_timeout" doc:"How long reading a chunk may take; the server breaks it off then, and a smaller one is tried. A table without a key is read by one statement, which this does not bound."`
	RowsPerSecond    int               `yaml:"rows_per_second" doc:"Rows that all copies together read in a second; 0 is no limit. No chunk has more of them than this."`
	BytesPerSecond   Size              `yaml:"bytes_per_second" doc:"The same in bytes that the server sends."`
	MaxLag           Size              `yaml:"max_lag" doc:"Copies pause while the stream has more than these bytes of WAL still to bring, since a chunk would wait for them with every change in between noted; 0 is no limit."`
	MaxReplicaLag    Size              `yaml:"max_replica_lag" doc:"Copies pause while a physical standby has more than these bytes of WAL still to replay; 0 is no limit. The role needs pg_read_all_stats."`
	MaxSessions      int               `yaml:"max_sessions" doc:"Copies pause while more sessions than these are active in the server, ours aside; 0 is no limit. The role needs pg_read_all_stats."`
}

// Table are the choices of one table; an empty one is that of Schema.
type Table struct {
	Compatibility  string `yaml:"compatibility" enum:",none,backward,backward_transitive,forward,forward_transitive,full,full_transitive" doc:"As schema.compatibility. Tables that share a topic have one level."`
	OnIncompatible string `yaml:"on_incompatible" enum:",stop,force,new-topic" doc:"As schema.on_incompatible."`
	Toast          string `yaml:"toast" enum:",mark,placeholder,refetch" doc:"As schema.toast, for the columns that schema.columns says nothing else of."`
	Topic          string `yaml:"topic" doc:"Topic of the table, instead of the one that kafka.topic.template gives it. Tables for which the same one is named here share it."`
}

// Column are the choices of one column; an empty one is that of Schema.
type Column struct {
	Numeric       string `yaml:"numeric" enum:",precise,string,double" doc:"As schema.numeric."`
	Unconstrained string `yaml:"numeric_unconstrained" enum:",string,variable-scale,double" doc:"As schema.numeric_unconstrained."`
	Time          string `yaml:"time" enum:",avro,connect,plain,iso" doc:"As schema.time."`
	Binary        string `yaml:"binary" enum:",bytes,base64,hex" doc:"As schema.binary."`
	Enum          string `yaml:"enum" enum:",string,enum" doc:"As schema.enum."`
	Range         string `yaml:"range" enum:",text,record" doc:"As schema.range."`
	Array         string `yaml:"array" enum:",array,text" doc:"As schema.array."`
	Toast         string `yaml:"toast" enum:",mark,placeholder,refetch" doc:"As schema.toast; placeholder for a type without room for it is an error here."`
}

// Registry says which schema registry is used.
type Registry struct {
	Mode                 string   `yaml:"mode" enum:"built-in,external" doc:"built-in: walferry serves the registry itself and keeps it in a topic. external: the one at url is used."`
	URL                  string   `yaml:"url" doc:"URL of the external registry; setting it makes mode external. To share the built-in registry of another walferry, give its URL here." example:"https://registry.example.com"`
	Listen               string   `yaml:"listen" doc:"Address of the built-in registry. On an address that is not loopback, writes are refused until auth is configured or allow_anonymous_writes is set."`
	Advertise            string   `yaml:"advertise" doc:"URL where the other walferry processes on the same topic reach this registry: while it is the one that writes, they pass writes on to it. Without it, the address of listen, with the machine's name for 0.0.0.0 and ::." example:"https://registry-1.example.com:8081"`
	Topic                string   `yaml:"topic" doc:"Topic that the built-in registry is kept in, in Confluent's format."`
	Auth                 Auth     `yaml:"auth" doc:"User and password, or a bearer token: sent to an external registry, and asked for by the built-in one's writes."`
	TLS                  TLS      `yaml:"tls" doc:"TLS to an external registry, where the URL's https and the system's authorities do not do; and of walferry's own commands to the built-in one."`
	Timeout              Duration `yaml:"timeout" doc:"Deadline of one request to an external registry."`
	AllowAnonymousWrites bool     `yaml:"allow_anonymous_writes" doc:"Let anyone who reaches the built-in registry register and delete schemas. walferry check reports it."`
	AllowAnonymousReads  bool     `yaml:"allow_anonymous_reads" doc:"Let anyone who reaches the built-in registry read it. With false, reads ask for auth or one of users, too."`

	Users     map[string]RegistryUser `yaml:"users" doc:"Who else may use the built-in registry, by name. Each has a role, read (look schemas up and check them, where allow_anonymous_reads is false) or write (everything), and one of password, password_file, token (bearer) and token_file." example:"{consumers: {role: read, password: secret}}"`
	ListenTLS ListenTLS               `yaml:"listen_tls" doc:"TLS of the built-in registry's listener. Certificates are read again at each connection, so that renewing them needs no restart."`
}

// Auth is a user with a password, or a token.
type Auth struct {
	User         string `yaml:"user" doc:"User name."`
	Password     Secret `yaml:"password" doc:"Password."`
	PasswordFile string `yaml:"password_file" doc:"File that holds the password, instead of password."`
	Token        Secret `yaml:"token" doc:"Bearer token, instead of a user."`
	TokenFile    string `yaml:"token_file" doc:"File that holds the token, instead of token."`
}

// RegistryUser is somebody whom the built-in registry knows.
type RegistryUser struct {
	Role         string `yaml:"role" enum:",read,write" doc:"read: look schemas up and check them. write: everything."`
	Password     Secret `yaml:"password" doc:"Password, for HTTP basic authentication."`
	PasswordFile string `yaml:"password_file" doc:"File that holds the password, instead of password."`
	Token        Secret `yaml:"token" doc:"Bearer token, instead of a password."`
	TokenFile    string `yaml:"token_file" doc:"File that holds the token, instead of token."`
}

// ListenTLS is the certificate of a listener.
type ListenTLS struct {
	CertFile     string `yaml:"cert_file" doc:"PEM file with the certificate and what leads to its authority. Empty: no TLS."`
	KeyFile      string `yaml:"key_file" doc:"PEM file with the certificate's key."`
	ClientCAFile string `yaml:"client_ca_file" doc:"PEM file with the authorities of client certificates; with it, a client without one is turned away."`
}

// Enabled tells whether the listener speaks TLS.
func (t *ListenTLS) Enabled() bool { return t.CertFile != "" }

// ReadPassword returns the password, from its file if one is named.
func (a *Auth) ReadPassword() (string, error) {
	return read(a.Password, a.PasswordFile, "registry.auth.password_file")
}

// ReadToken returns the bearer token, from its file if one is named.
func (a *Auth) ReadToken() (string, error) {
	return read(a.Token, a.TokenFile, "registry.auth.token_file")
}

// Checkpoint says where progress is saved.
type Checkpoint struct {
	Topic             string `yaml:"topic" doc:"Compacted topic with one partition that holds this pipeline's progress; default _walferry. and the pipeline's name."`
	ReplicationFactor int    `yaml:"replication_factor" doc:"Replicas of the checkpoint topic; 0 takes kafka.topic.replication_factor."`
}

// Errors are the policies per class of change that cannot be published.
type Errors struct {
	Value    string `yaml:"value" enum:"stop" doc:"A value that its Avro type cannot hold, such as NaN in a decimal."`
	TooLarge string `yaml:"too_large" enum:"stop" doc:"A record larger than the broker takes."`
	Schema   string `yaml:"schema" enum:"stop" doc:"A schema that the registry refuses; see also schema.on_incompatible."`
}

// Admin is the HTTP listener's section.
type Admin struct {
	Listen string `yaml:"listen" doc:"Address of the listener; empty turns it off."`
	Pprof  bool   `yaml:"pprof" doc:"Serve Go's profiles under /debug/pprof/."`
}

// Log says what is logged.
type Log struct {
	Level  string `yaml:"level" enum:"debug,info,warn,error" doc:"Least level that is logged."`
	Format string `yaml:"format" enum:"text,json" doc:"Form of a line."`
}

// Default returns the configuration that an empty file stands for; names that
// derive from the pipeline's are still empty, see derive.
func Default() *Config {
	return &Config{
		Source: Source{
			Slot:             Slot{Create: true},
			Publication:      Publication{Create: true},
			Heartbeat:        Duration(10 * time.Second),
			WALSenderTimeout: Duration(60 * time.Second),
			StallLimit:       Duration(30 * time.Second),
			BufferBytes:      8 << 20,
			MaxRowBytes:      128 << 20,
		},
		Kafka: Kafka{
			ClientID: "walferry",
			Topic: Topic{
				Template:      "{prefix}.{schema}.{table}",
				Create:        true,
				Partitions:    6,
				CleanupPolicy: "delete",
			},
			Compression:        "lz4",
			TransactionTimeout: Duration(60 * time.Second),
			PublishTimeout:     Duration(30 * time.Second),
			RequestTimeout:     Duration(10 * time.Second),
			BatchBytes:         8 << 20,
		},
		Schema: Schema{Envelope: "debezium", UpdateBefore: "sent", Numeric: "precise", Unconstrained: "string", Time: "avro", Binary: "bytes", Enum: "string", Range: "text", Array: "array", Toast: "mark", Collisions: "error", Truncate: "emit", Subject: "topic", Compatibility: "backward", OnIncompatible: "stop"},
		Backfill: Backfill{Mode: "initial", Workers: 2, BufferBytes: 32 << 20, ChunkTime: Duration(500 * time.Millisecond),
			StatementTimeout: Duration(time.Minute), MaxLag: 64 << 20},
		Registry:     Registry{Mode: "built-in", Listen: "127.0.0.1:8081", Topic: "_schemas", Timeout: Duration(10 * time.Second), AllowAnonymousReads: true},
		Errors:       Errors{Value: "stop", TooLarge: "stop", Schema: "stop"},
		Admin:        Admin{Listen: "127.0.0.1:8080"},
		Log:          Log{Level: "info", Format: "text"},
		DrainTimeout: Duration(20 * time.Second),
		Standby:      true,
	}
}

// derive fills what is named after the pipeline.
func (c *Config) derive() {
	if c.Source.Slot.Name == "" && c.Name != "" {
		c.Source.Slot.Name = slotName(c.Name)
	}
	if c.Source.Publication.Name == "" {
		c.Source.Publication.Name = c.Source.Slot.Name
	}
	if c.Kafka.Topic.Prefix == "" {
		c.Kafka.Topic.Prefix = c.Name
	}
	if c.Kafka.TransactionalID == "" && c.Name != "" {
		c.Kafka.TransactionalID = "walferry-" + c.Name
	}
	if c.Checkpoint.Topic == "" && c.Name != "" {
		c.Checkpoint.Topic = "_walferry." + c.Name
	}
	if c.Checkpoint.ReplicationFactor == 0 {
		c.Checkpoint.ReplicationFactor = c.Kafka.Topic.ReplicationFactor
	}
	if c.Registry.URL != "" {
		c.Registry.Mode = "external"
	}
}

// slotName turns a pipeline's name into one that Postgres takes for a slot:
// [a-z0-9_], at most 63 bytes (NAMEDATALEN-1).
func slotName(name string) string {
	s := "walferry_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
	return s[:min(len(s), 63)]
}

// ReadDSN returns the connection string, from its file if one is named.
func (s *Source) ReadDSN() (string, error) {
	return read(s.DSN, s.DSNFile, "source.dsn_file")
}

// read returns the secret, or the content of the file without the line end that
// editors put there.
func read(s Secret, file, key string) (string, error) {
	if file == "" {
		return string(s), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", &Error{Path: key, Problem: err.Error(), Remedy: "give walferry's user the right to read the file, or correct the path"}
	}
	v := strings.TrimRight(string(b), "\r\n")
	if v == "" {
		return "", &Error{Path: key, Problem: fmt.Sprintf("the file %s is empty", file), Remedy: "write the secret into it"}
	}
	return v, nil
}
