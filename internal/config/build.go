package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"walferry/internal/kafka"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/sink"
	"walferry/source"
)

// The methods below hand each package its own configuration. They read the files
// that secrets are kept in, hence the errors.

// ForSource is the configuration of package source.
func (c *Config) ForSource() (source.Config, error) {
	dsn, err := c.Source.ReadDSN()
	if err != nil {
		return source.Config{}, err
	}
	s := &c.Source
	// Said now; both are read again at each connection.
	if _, err := pgconn.ParseConfig(dsn); err != nil {
		return source.Config{}, &Error{Path: "source.dsn", Problem: err.Error(), Remedy: "correct it; the files that it names must be there and readable"}
	}
	if s.PasswordFile != "" {
		if _, err := read("", s.PasswordFile, "source.password_file"); err != nil {
			return source.Config{}, err
		}
	}
	return source.Config{
		DSN:               dsn,
		PasswordFile:      s.PasswordFile,
		Slot:              s.Slot.Name,
		Publication:       s.Publication.Name,
		AppName:           "walferry_" + c.Name,
		Tables:            s.Tables,
		Schemas:           s.Schemas,
		AllTables:         s.AllTables,
		Exclude:           s.Exclude,
		ExcludeColumns:    s.ExcludeColumns,
		Heartbeat:         s.Heartbeat.Std(),
		WALSenderTimeout:  s.WALSenderTimeout.Std(),
		BufferBytes:       int64(s.BufferBytes),
		MaxRowBytes:       int64(s.MaxRowBytes),
		Adopt:             s.Slot.Adopt,
		CreateSlot:        s.Slot.Create,
		CreatePublication: s.Publication.Create,
		Failover:          s.Slot.Failover,
	}, nil
}

// ForKafka is the configuration of package internal/kafka.
func (c *Config) ForKafka() (kafka.Config, error) {
	k := &c.Kafka
	if _, err := k.SASL.ReadPassword(); err != nil {
		return kafka.Config{}, err // said now; the client reads it again at each connection
	}
	out := kafka.Config{
		Brokers:  k.Brokers,
		ClientID: k.ClientID,
		SASL: kafka.SASLConfig{
			Mechanism:    strings.ToUpper(k.SASL.Mechanism),
			User:         k.SASL.User,
			Password:     string(k.SASL.Password),
			PasswordFile: k.SASL.PasswordFile,
		},
		RequestTimeout: k.RequestTimeout.Std(),
	}
	if t := &k.TLS; t.Enabled {
		out.TLS = &kafka.TLSConfig{
			CAFile:             t.CAFile,
			CertFile:           t.CertFile,
			KeyFile:            t.KeyFile,
			ServerName:         t.ServerName,
			InsecureSkipVerify: t.InsecureSkipVerify,
		}
	}
	return out, nil
}

// ForSink is the configuration of package sink.
func (c *Config) ForSink() sink.Config {
	return sink.Config{
		TransactionalID:    c.Kafka.TransactionalID,
		TransactionTimeout: c.Kafka.TransactionTimeout.Std(),
		PublishTimeout:     c.Kafka.PublishTimeout.Std(),
		Compression:        c.Kafka.Compression,
		MaxBatchBytes:      int(c.Kafka.BatchBytes),
	}
}

// TopicSpec is the topic of a table as it is to be created or checked.
func (c *Config) TopicSpec(schemaName, table string) sink.TopicSpec {
	t := &c.Kafka.Topic
	return sink.TopicSpec{
		Name:              c.TopicName(schemaName, table),
		Partitions:        t.Partitions,
		ReplicationFactor: t.ReplicationFactor,
		CleanupPolicy:     strings.ReplaceAll(t.CleanupPolicy, "+", ","),
		Configs:           t.Config,
		MustExist:         !t.Create,
	}
}

// ChangesSpec is the topic of schema changes as it is to be created or checked; without a name for none. It has one
// partition, so that changes of all tables are in order, and keeps what it has: a history with a gap is none.
func (c *Config) ChangesSpec() sink.TopicSpec {
	return sink.TopicSpec{
		Name:              c.Schema.ChangesTopic,
		Partitions:        1,
		ReplicationFactor: c.Kafka.Topic.ReplicationFactor,
		CleanupPolicy:     "delete",
		Configs:           map[string]string{"retention.ms": "-1", "retention.bytes": "-1"},
		MustExist:         !c.Kafka.Topic.Create,
	}
}

// table is what schema.tables says of a table.
func (c *Config) table(schemaName, table string) Table {
	for key, x := range c.Schema.Tables {
		if p := parts(key); len(p) == 2 && p[0] == schemaName && p[1] == table {
			return x
		}
	}
	return Table{}
}

// Backfilled says whether the rows are copied that are in a table when its capture begins.
func (c *Config) Backfilled(schemaName, table string) bool {
	for key, mode := range c.Backfill.Tables {
		if p := parts(key); len(p) == 2 && p[0] == schemaName && p[1] == table {
			return mode == "initial"
		}
	}
	return c.Backfill.Mode == "initial"
}

// BackfillPriority is the place of a table's pattern in backfill.first, and behind all of them where it has none.
func (c *Config) BackfillPriority(schemaName, table string) int {
	i := slices.IndexFunc(c.Backfill.First, func(p string) bool {
		ok, err := source.Matches(p, schemaName, table)
		return ok && err == nil // patterns were read when the configuration was validated
	})
	if i < 0 {
		return len(c.Backfill.First)
	}
	return i
}

// OnIncompatible is what happens when the registry refuses a schema of this table: stop, force or new-topic.
func (c *Config) OnIncompatible(schemaName, table string) string {
	return cmp.Or(c.table(schemaName, table).OnIncompatible, c.Schema.OnIncompatible)
}

// Compatibility is the level that this table's subjects get when walferry creates them.
func (c *Config) Compatibility(schemaName, table string) registry.Level {
	return registry.Level(strings.ToUpper(cmp.Or(c.table(schemaName, table).Compatibility, c.Schema.Compatibility)))
}

// subjects are the strategies that schema.subject names, by name.
var subjects = map[string]string{"topic": schema.SubjectTopic, "record": schema.SubjectRecord, "topic-record": schema.SubjectTopicRecord}

// Naming is the part of the options of package schema that names subjects.
func (c *Config) Naming() schema.Options {
	return schema.Options{Envelope: c.Schema.Envelope, Subject: cmp.Or(subjects[c.Schema.Subject], c.Schema.Subject)}
}

// SharesTopic says whether the table's topic is named for it by itself: it may then be that of other such tables.
func (c *Config) SharesTopic(schemaName, table string) bool {
	return c.table(schemaName, table).Topic != ""
}

// OwnTopic says what of walferry's own is kept in a topic, "" for nothing: a table cannot have it.
func (c *Config) OwnTopic(topic string) string {
	switch {
	case topic == c.Checkpoint.Topic:
		return "this pipeline's progress (checkpoint.topic)"
	case topic == c.Registry.Topic && c.Registry.Mode == "built-in":
		return "the schema registry (registry.topic)"
	case topic == c.Schema.ChangesTopic && topic != "":
		return "schema changes (schema.changes_topic)"
	}
	return ""
}

// CheckpointSpec is the checkpoint topic as it is to be created or checked.
func (c *Config) CheckpointSpec() sink.TopicSpec {
	return sink.TopicSpec{
		Name:              c.Checkpoint.Topic,
		Partitions:        1,
		ReplicationFactor: c.Checkpoint.ReplicationFactor,
		CleanupPolicy:     "compact",
		// Small segments, because only closed ones are compacted and every batch writes a record.
		Configs: map[string]string{"segment.bytes": "16777216", "min.cleanable.dirty.ratio": "0.1"},
	}
}

// RegistrySpec is the built-in registry's topic as it is to be created or checked.
func (c *Config) RegistrySpec() sink.TopicSpec {
	return sink.TopicSpec{
		Name:              c.Registry.Topic,
		Partitions:        1,
		ReplicationFactor: c.Checkpoint.ReplicationFactor,
		CleanupPolicy:     "compact",
	}
}

// RegistryTransactionalID is that of the built-in registry's one writer. It is the
// same for all pipelines of a cluster that share the topic.
func (c *Config) RegistryTransactionalID() string { return "walferry-registry-" + c.Registry.Topic }

// ForRegistryClient is the configuration of a client of the registry: the external
// one, or where a walferry of this configuration serves the built-in one.
func (c *Config) ForRegistryClient() (registry.ClientConfig, error) {
	r := &c.Registry
	if _, err := r.Auth.ReadPassword(); err != nil {
		return registry.ClientConfig{}, err // said now; the client reads it again at each request
	}
	if _, err := r.Auth.ReadToken(); err != nil {
		return registry.ClientConfig{}, err
	}
	out := registry.ClientConfig{
		URL:          r.URL,
		User:         r.Auth.User,
		Password:     string(r.Auth.Password),
		PasswordFile: r.Auth.PasswordFile,
		Token:        string(r.Auth.Token),
		TokenFile:    r.Auth.TokenFile,
		Timeout:      r.Timeout.Std(),
	}
	if r.Mode == "built-in" {
		out.URL = "http://" + Dialable(r.Listen)
		if r.ListenTLS.Enabled() {
			out.URL = "https://" + Dialable(r.Listen)
			out.CAFile = r.ListenTLS.CertFile // we trust ourselves, unless tls says it otherwise
		}
	}
	if t := &r.TLS; t.Enabled {
		out.CAFile, out.CertFile, out.KeyFile = t.CAFile, t.CertFile, t.KeyFile
		out.ServerName, out.InsecureSkipVerify = t.ServerName, t.InsecureSkipVerify
	}
	return out, nil
}

// RegistryMember is how the built-in registry works with the others on its topic.
func (c *Config) RegistryMember() (registry.Member, error) {
	client, err := c.ForRegistryClient()
	if err != nil {
		return registry.Member{}, err
	}
	m := registry.Member{URL: c.Registry.Advertise, Client: client}
	if m.URL != "" {
		return m, nil
	}
	host, port, err := net.SplitHostPort(c.Registry.Listen)
	if err != nil {
		return registry.Member{}, fmt.Errorf("registry.listen: %w", err)
	}
	if port == "0" {
		return m, nil // only this process knows which it will be
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return registry.Member{}, fmt.Errorf("registry.advertise: %w", err)
		}
	}
	scheme := "http"
	if c.Registry.ListenTLS.Enabled() {
		scheme = "https"
	}
	m.URL = scheme + "://" + net.JoinHostPort(host, port)
	return m, nil
}

// Dialable turns an address to listen on into one to connect to from this machine.
func Dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen // the configuration is validated; let the dial say it
	}
	switch ip, err := netip.ParseAddr(host); {
	case host == "", err == nil && ip.IsUnspecified() && ip.Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}

// TopicName is the topic that is named for the table, or applies the template. What
// Kafka does not allow in a topic's name there (anything but ASCII letters, digits,
// . _ and -) becomes _, as Debezium does.
func (c *Config) TopicName(schemaName, table string) string {
	if topic := c.table(schemaName, table).Topic; topic != "" {
		return topic
	}
	name := strings.NewReplacer("{prefix}", c.Kafka.Topic.Prefix, "{schema}", schemaName, "{table}", table).Replace(c.Kafka.Topic.Template)
	return strings.Map(func(r rune) rune {
		if r < 0x80 && topicName.MatchString(string(r)) {
			return r
		}
		return '_'
	}, name)
}

// SchemaOptions are the options of package schema for one table. db, systemID and
// version are what the events' source block says.
func (c *Config) SchemaOptions(schemaName, table, db, systemID, version string) schema.Options {
	naming := c.Naming()
	o := schema.Options{
		Name:     c.Kafka.Topic.Prefix,
		DB:       db,
		SystemID: systemID,
		Version:  version,
		Envelope: naming.Envelope,
		Subject:  naming.Subject,
		ColumnOptions: schema.ColumnOptions{
			Numeric:       c.Schema.Numeric,
			Unconstrained: c.Schema.Unconstrained,
			Time:          c.Schema.Time,
			Binary:        c.Schema.Binary,
			Enum:          c.Schema.Enum,
			Range:         c.Schema.Range,
			Array:         c.Schema.Array,
			Toast:         cmp.Or(c.table(schemaName, table).Toast, c.Schema.Toast),
		},
		UpdateBefore:   c.Schema.UpdateBefore,
		Collisions:     c.Schema.Collisions,
		ExcludeColumns: c.Source.ExcludeColumns,
	}
	for key, columns := range c.Schema.Keys {
		if p := parts(key); len(p) == 2 && p[0] == schemaName && p[1] == table {
			o.Key = columns
		}
	}
	for key, x := range c.Schema.Columns {
		if p := parts(key); len(p) == 3 && p[0] == schemaName && p[1] == table {
			if o.Columns == nil {
				o.Columns = map[string]schema.ColumnOptions{}
			}
			o.Columns[p[2]] = schema.ColumnOptions(x)
		}
	}
	return o
}

// parts splits a qualified name at its dots, those in double quotes aside, and
// takes the quotes off. validator.pattern has accepted it.
func parts(name string) []string {
	var out []string
	var b strings.Builder
	quoted := false
	for i := 0; i < len(name); i++ {
		switch {
		case quoted && name[i] == '"' && i+1 < len(name) && name[i+1] == '"':
			b.WriteByte('"')
			i++
		case name[i] == '"':
			quoted = !quoted
		case name[i] == '.' && !quoted:
			out = append(out, b.String())
			b.Reset()
		default:
			b.WriteByte(name[i])
		}
	}
	return append(out, b.String())
}

// BootstrapServers is the brokers' list in one string, for messages.
func (c *Config) BootstrapServers() string { return strings.Join(c.Kafka.Brokers, ",") }

// RegistryUsers are those whom the built-in registry knows, with their secrets.
func (c *Config) RegistryUsers() ([]registry.User, error) {
	var users []registry.User
	add := func(name, role string, password, token Secret, passwordFile, tokenFile, path string) error {
		u := registry.User{Name: name, Role: registry.Role(role)}
		var err error
		if u.Password, err = read(password, passwordFile, path+".password_file"); err != nil {
			return err
		}
		if u.Token, err = read(token, tokenFile, path+".token_file"); err != nil {
			return err
		}
		users = append(users, u)
		return nil
	}
	r := &c.Registry
	if a := &r.Auth; a.User != "" || a.Token != "" || a.TokenFile != "" {
		if err := add(a.User, string(registry.Writer), a.Password, a.Token, a.PasswordFile, a.TokenFile, "registry.auth"); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Users)) {
		u := r.Users[name]
		if err := add(name, u.Role, u.Password, u.Token, u.PasswordFile, u.TokenFile, "registry.users."+name); err != nil {
			return nil, err
		}
	}
	return users, nil
}

// RegistryTLS is the TLS of the built-in registry's listener, nil without it. What cannot be read is an error now; after
// that the certificate is read again at each handshake.
func (c *Config) RegistryTLS() (*tls.Config, error) {
	t := &c.Registry.ListenTLS
	if !t.Enabled() {
		return nil, nil
	}
	bad := func(key string, err error) error {
		return &Error{Path: "registry.listen_tls." + key, Problem: err.Error(), Remedy: "give PEM files that walferry's user can read, and the key of this certificate"}
	}
	load := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		return &pair, err
	}
	if _, err := load(nil); err != nil {
		return nil, bad("cert_file", err)
	}
	out := &tls.Config{GetCertificate: load, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if t.ClientCAFile != "" {
		pem, err := os.ReadFile(t.ClientCAFile)
		if err != nil {
			return nil, bad("client_ca_file", err)
		}
		out.ClientAuth, out.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !out.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, bad("client_ca_file", fmt.Errorf("no certificate in %s", t.ClientCAFile))
		}
	}
	return out, nil
}

// RegistryLoopback says whether only this machine reaches the built-in registry.
func (c *Config) RegistryLoopback() (bool, error) {
	local, err := loopback(c.Registry.Listen)
	if err != nil {
		return false, fmt.Errorf("registry.listen: %w", err)
	}
	return local, nil
}

// AnonymousWrites says whether the built-in registry takes writes from anyone who
// reaches it: always on the loopback interface, elsewhere only when it is allowed.
func (c *Config) AnonymousWrites() (bool, error) {
	local, err := c.RegistryLoopback()
	return !c.Registry.hasWriter() && (local || c.Registry.AllowAnonymousWrites), err
}

// hasWriter says whether somebody is configured who may write.
func (r *Registry) hasWriter() bool {
	for _, u := range r.Users {
		if u.Role == string(registry.Writer) {
			return true
		}
	}
	return r.Auth.User != "" || r.Auth.Token != "" || r.Auth.TokenFile != ""
}

// loopback says whether addr can only be reached from this machine.
func loopback(addr string) (bool, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, err
	}
	if host == "localhost" {
		return true, nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback(), nil
}
