package main

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	kafkago "github.com/segmentio/kafka-go"

	"walferry/internal/pgserver"
	"walferry/internal/testbed"
)

func writeTo(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// scramUser makes a user of a broker that authenticates with a SCRAM mechanism.
func scramUser(t *testing.T, broker *testbed.Broker, name, password string) {
	t.Helper()
	client := &kafkago.Client{Addr: kafkago.TCP(broker.Addr)}
	salt := []byte("no secret")
	for mechanism, h := range map[kafkago.ScramMechanism]func() hash.Hash{
		kafkago.ScramMechanismSha256: sha256.New, kafkago.ScramMechanismSha512: sha512.New,
	} {
		salted, err := pbkdf2.Key(h, password, salt, 4096, h().Size())
		if err != nil {
			t.Fatal(err)
		}
		// One at a time: a request may name a user once.
		res, err := client.AlterUserScramCredentials(t.Context(), &kafkago.AlterUserScramCredentialsRequest{
			Upsertions: []kafkago.UserScramCredentialsUpsertion{{Name: name, Mechanism: mechanism, Iterations: 4096, Salt: salt, SaltedPassword: salted}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res.Results {
			if r.Error != nil {
				t.Fatal(r.Error)
			}
		}
	}
}

// documentedRights gives a user of a broker what the table in docs/operating.md says, and nobody but super users anything else of
// these resources and of the cluster.
func documentedRights(t *testing.T, broker *testbed.Broker, user, pipeline string) {
	t.Helper()
	req := &kafkago.CreateACLsRequest{ACLs: []kafkago.ACLEntry{{ResourceType: kafkago.ResourceTypeCluster, ResourceName: "kafka-cluster",
		ResourcePatternType: kafkago.PatternTypeLiteral, Principal: "User:nobody", Host: "*",
		Operation: kafkago.ACLOperationTypeDescribe, PermissionType: kafkago.ACLPermissionTypeAllow}}}
	kinds := map[string]kafkago.ResourceType{"topic": kafkago.ResourceTypeTopic, "transactional id": kafkago.ResourceTypeTransactionalID}
	rows := regexp.MustCompile("(?m)^\\| (topic|transactional id) \\| `([^`]+)`(.*) \\| ([A-Za-z, ]+) \\|$").FindAllStringSubmatch(readFile(t, "../../docs/operating.md"), -1)
	if len(rows) != 5 {
		t.Fatalf("docs/operating.md has %d rows of rights", len(rows))
	}
	for _, row := range rows {
		e := kafkago.ACLEntry{ResourceType: kinds[row[1]], ResourceName: strings.NewReplacer("<name>", pipeline, "<prefix>", pipeline).Replace(row[2]),
			ResourcePatternType: kafkago.PatternTypeLiteral, Principal: "User:" + user, Host: "*", PermissionType: kafkago.ACLPermissionTypeAllow}
		if strings.Contains(row[3], "prefixed") {
			e.ResourcePatternType = kafkago.PatternTypePrefixed
		}
		for op := range strings.SplitSeq(row[4], ", ") {
			if err := e.Operation.UnmarshalText([]byte(op)); err != nil {
				t.Fatal(err)
			}
			req.ACLs = append(req.ACLs, e)
		}
	}
	res, err := (&kafkago.Client{Addr: kafkago.TCP(broker.Addr)}).CreateACLs(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range res.Errors {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestSecureKafka: each way in and each way of being turned away, as the configuration file has them.
func TestSecureKafka(t *testing.T) {
	pg := testbed.Postgres(t, "")
	pg.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text)",
		"CREATE PUBLICATION walferry_secure FOR TABLE public.orders WITH (publish_via_partition_root = true)")
	ca, stranger := testbed.NewAuthority(t), testbed.NewAuthority(t)
	cert, key := ca.Issue("walferry")
	strangersCert, strangersKey := stranger.Issue("walferry")
	serverCert, serverKey := ca.Issue("broker")
	dir := t.TempDir()
	keystore := writeTo(t, dir, "keystore.pem", readFile(t, serverKey)+readFile(t, serverCert))
	password, wrong := writeTo(t, dir, "password", "secret\n"), writeTo(t, dir, "wrong", "wrong\n")
	tls, sasl, both := freeAddr(t), freeAddr(t), freeAddr(t)
	const scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
	broker := testbed.KafkaAlone(t, "listener=SSL://"+tls, "listener=SASL_PLAINTEXT://"+sasl, "listener=SASL_SSL://"+both,
		"ssl.keystore.type=PEM", "ssl.keystore.location="+keystore, "ssl.truststore.type=PEM", "ssl.truststore.location="+ca.File,
		"listener.name.ssl.ssl.client.auth=required",
		// The plain listener is the administrator's.
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS", "allow.everyone.if.no.acl.found=true",
		"listener.name.sasl_plaintext.sasl.enabled.mechanisms=SCRAM-SHA-512",
		"listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config="+scram,
		"listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config="+scram,
		"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config="+scram,
		`listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_walferry="secret";`)
	if !broker.Apache {
		t.Skip("needs Apache Kafka: install Java 17 and Maven")
	}
	scramUser(t, broker, "walferry", "secret")

	b := &bench{t: t, file: filepath.Join(dir, "walferry.yml")}
	// check says of Kafka what it says without a Postgres, and sooner.
	const nowhere = "host=127.0.0.1 port=1 user=walferry dbname=shop"
	configure := func(dsn, kafka string) {
		b.configure(`
name: secure
source:
  dsn: %q
  tables: [public.orders]
  publication: {create: false}
kafka:
  topic: {partitions: 1, replication_factor: 1}
  %s
registry: {listen: %q}
backfill: none
admin: {listen: %q}
`, dsn, kafka, freeAddr(t), freeAddr(t))
	}
	login := func(mechanism, file string) string {
		return "\n  sasl: {mechanism: " + mechanism + ", user: walferry, password_file: " + file + "}"
	}
	trust := func(file string) string { return "\n  tls: {enabled: true, ca_file: " + file + "}" }
	shown := func(cert, key string) string {
		return "\n  tls: {enabled: true, ca_file: " + ca.File + ", cert_file: " + cert + ", key_file: " + key + "}"
	}
	at := func(addr string) string { return "brokers: [" + addr + "]" }
	for name, kafka := range map[string]string{
		"client certificate":     at(tls) + shown(cert, key),
		"scram-sha-512":          at(sasl) + login("scram-sha-512", password),
		"TLS with plain":         at(both) + trust(ca.File) + login("plain", password),
		"TLS with scram-sha-256": at(both) + trust(ca.File) + login("scram-sha-256", password),
	} {
		t.Run(name, func(t *testing.T) {
			configure(nowhere, kafka)
			b.t = t
			text := b.walferry(exitCheck, "", "check")
			b.has(text, "ok    kafka     connect", "ok    kafka     transactional_id")
			if strings.Contains(text, "fail  kafka") || strings.Contains(text, "fail  registry") {
				t.Error(text)
			}
		})
	}
	const credentials = "password"
	const ours = "kafka.tls.cert_file and kafka.tls.key_file"
	for name, c := range map[string]struct {
		kafka, says, remedy string
		waits               bool // might as well pass, so run goes on trying
	}{
		"wrong password of plain":         {at(both) + trust(ca.File) + login("plain", wrong), "Invalid username or password", credentials, false},
		"wrong password of scram-sha-256": {at(both) + trust(ca.File) + login("scram-sha-256", wrong), "invalid credentials", credentials, false},
		"wrong password of scram-sha-512": {at(sasl) + login("scram-sha-512", wrong), "invalid credentials", credentials, false},
		"mechanism not there":             {at(sasl) + login("scram-sha-256", password), "does not support the requested SASL mechanism", "kafka.sasl.mechanism", false},
		"authority unknown to us":         {at(both) + trust(stranger.File) + login("plain", password), "certificate signed by unknown authority", "kafka.tls.ca_file", false},
		"no authority named":              {at(both) + "\n  tls: {enabled: true}" + login("plain", password), "certificate signed by unknown authority", "kafka.tls.ca_file", false},
		"authority unknown to the broker": {at(tls) + shown(strangersCert, strangersKey), "refuses our TLS connection", ours, false},
		"no client certificate":           {at(tls) + trust(ca.File), "refuses our TLS connection", ours, false},
		"certificate of another name": {at(both) + "\n  tls: {enabled: true, ca_file: " + ca.File + ", server_name: elsewhere.example}" + login("plain", password),
			"wanted to match elsewhere.example", "kafka.tls.server_name", false},
		"no password":              {at(sasl), "EOF", "kafka.sasl", true},
		"plain text to a TLS port": {at(both) + login("plain", password), "expecting TLS", "kafka.tls", true},
		"TLS to a plain port":      {at(sasl) + trust(ca.File) + login("scram-sha-512", password), "TLS handshake", "kafka.tls", true},
	} {
		t.Run(name, func(t *testing.T) {
			configure(nowhere, c.kafka)
			b.t = t
			b.has(failure(t, b.walferry(exitCheck, "", "check"), "kafka", "connect"), c.says, c.remedy)
			if !c.waits {
				configure(pg.DSN(testbed.Reader), c.kafka)
				b.has(sentence(t, b.walferry(exitKafka, "", "run")), c.says, c.remedy)
			}
		})
	}

	// The whole way, through a login and TLS, with the rights that the docs list and no more.
	b.t = t
	documentedRights(t, broker, "walferry", "secure")
	configure(pg.DSN(testbed.Reader), at(both)+trust(ca.File)+login("scram-sha-512", password))
	b.walferry(exitOK, "", "check")
	p := b.start("run")
	b.until(p, "status", "--readyz")
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (1, 'sealed')")
	// It writes events and may not read them; the administrator may.
	configure(nowhere, at(broker.Addr))
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "1"), `note="sealed"`)
	if code := b.stop(p); code != exitOK {
		t.Errorf("run ended with %d:\n%s", code, p.errs)
	}
	if strings.Contains(p.errs.String(), "level=ERROR") {
		t.Errorf("%s", p.errs)
	}
	// Another user of the same broker may not touch what is walferry's.
	configure(pg.DSN(testbed.Reader), at(tls)+shown(cert, key))
	b.has(failure(t, b.walferry(exitCheck, "", "check"), "kafka", "checkpoint_topic"), "Topic Authorization Failed", "allow Describe")
	b.has(sentence(t, b.walferry(exitKafka, "", "run")), "Topic Authorization Failed", "grant Describe and Write")
}

// failure is what check says of something that is wrong: what happened and what mends it.
func failure(t *testing.T, text, of, id string) string {
	t.Helper()
	said := regexp.MustCompile(`(?m)^fail  ` + of + ` +` + id + ` +.+(?:\n +-> .+)?$`).FindString(text)
	if said == "" {
		t.Fatalf("check has nothing against %s of %s:\n%s", id, of, text)
	}
	return said
}

// sentence is what a command said last: one line, and one with the remedy where there is another.
func sentence(t *testing.T, text string) string {
	t.Helper()
	_, said, ok := strings.Cut(text, "walferry: ")
	if lines := strings.Split(strings.TrimSpace(said), "\n"); !ok || len(lines) > 2 {
		t.Fatalf("not one sentence:\n%s", text)
	}
	return said
}

// TestSecurePostgres: what each sslmode takes and refuses, and a password that changes while walferry runs.
func TestSecurePostgres(t *testing.T) {
	pg := testbed.Postgres(t, "")
	broker := testbed.Kafka(t)
	ca, stranger := testbed.NewAuthority(t), testbed.NewAuthority(t)
	serverCert, serverKey := ca.Issue("server")
	cert, key := ca.Issue("certified")
	strangersCert, strangersKey := stranger.Issue("certified")
	otherCert, otherKey := ca.Issue("somebody")
	pg.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text)",
		"CREATE PUBLICATION walferry_secured FOR TABLE public.orders WITH (publish_via_partition_root = true)")
	pg.Exec(testbed.Superuser, "CREATE ROLE certified LOGIN REPLICATION", "GRANT "+testbed.Reader+" TO certified",
		"GRANT CONNECT ON DATABASE "+testbed.Shop+" TO certified")
	pg.Certificate(serverCert, serverKey, ca.File)
	hba := "local all all scram-sha-256\nhostssl all certified 127.0.0.1/32 cert\nhostssl all " + testbed.Reader +
		" 127.0.0.1/32 scram-sha-256\nhost all " + testbed.Owner + "," + testbed.Superuser + " 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(pg.DataDir(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pg.Restart(t.Context(), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	password, wrong := writeTo(t, dir, "password", pg.Password()+"\n"), writeTo(t, dir, "wrong", "wrong\n")
	b := &bench{t: t, file: filepath.Join(dir, "walferry.yml")}
	name := strings.ToLower(t.Name())
	configure := func(t *testing.T, role, host, passwordFile, options string) {
		b.t = t
		if passwordFile != "" {
			passwordFile = "password_file: " + passwordFile
		}
		b.configure(`
name: %s
source:
  dsn: "host=%s port=%d dbname=%s user=%s %s"
  %s
  tables: [public.orders]
  publication: {name: walferry_secured, create: false}
kafka:
  brokers: [%s]
  topic: {partitions: 1, replication_factor: 1}
registry: {listen: %q}
backfill: none
admin: {listen: %q}
`, name, host, pg.Port(), testbed.Shop, role, options, passwordFile, broker.Addr, freeAddr(t), freeAddr(t))
	}
	root := func(mode, file string) string { return "sslmode=" + mode + " sslrootcert=" + file }
	show := func(cert, key string) string {
		return root("verify-full", ca.File) + " sslcert=" + cert + " sslkey=" + key
	}
	for what, c := range map[string]struct{ role, host, password, options string }{
		"require":            {testbed.Reader, "127.0.0.1", password, "sslmode=require"},
		"verify-ca":          {testbed.Reader, "localhost", password, root("verify-ca", ca.File)}, // the name is not looked at
		"verify-full":        {testbed.Reader, "127.0.0.1", password, root("verify-full", ca.File)},
		"client certificate": {"certified", "127.0.0.1", "", show(cert, key)},
	} {
		t.Run(what, func(t *testing.T) {
			configure(t, c.role, c.host, c.password, c.options)
			b.has(b.walferry(exitOK, "", "status"), "does not exist")
		})
	}
	const login, dsnFiles = "check the password", "the files that it names"
	for what, c := range map[string]struct {
		role, host, password, options, says, remedy string
		code                                        int // of run
	}{
		"no TLS":                          {testbed.Reader, "127.0.0.1", password, "sslmode=disable", "no encryption", login, exitSource},
		"wrong password":                  {testbed.Reader, "127.0.0.1", wrong, root("verify-full", ca.File), "password authentication failed", login, exitSource},
		"verify-ca, another authority":    {testbed.Reader, "127.0.0.1", password, root("verify-ca", stranger.File), "unknown authority", "set sslrootcert", exitSource},
		"verify-full, another authority":  {testbed.Reader, "127.0.0.1", password, root("verify-full", stranger.File), "unknown authority", "set sslrootcert", exitSource},
		"verify-full, another host":       {testbed.Reader, "localhost", password, root("verify-full", ca.File), "wanted to match localhost", "sslmode=verify-ca", exitSource},
		"no client certificate":           {"certified", "127.0.0.1", "", root("verify-full", ca.File), "requires a valid client certificate", "sslcert", exitSource},
		"certificate of another role":     {"certified", "127.0.0.1", "", show(otherCert, otherKey), "certificate authentication failed", "sslcert", exitSource},
		"certificate of another issuer":   {"certified", "127.0.0.1", "", show(strangersCert, strangersKey), "unknown certificate authority", "set sslcert", exitSource},
		"certificate that is not there":   {"certified", "127.0.0.1", "", show("/nowhere.pem", key), "/nowhere.pem", dsnFiles, exitConfig},
		"password file that is not there": {testbed.Reader, "127.0.0.1", "/nowhere", root("verify-full", ca.File), "/nowhere", "the right to read", exitConfig},
	} {
		t.Run(what, func(t *testing.T) {
			configure(t, c.role, c.host, c.password, c.options)
			b.has(failure(t, b.walferry(exitCheck, "", "check"), "postgres", "connect"), c.says, c.remedy)
			b.has(sentence(t, b.walferry(c.code, "", "run")), c.says, c.remedy)
		})
	}

	// The password changes while it runs: the file first, then the role, as the manual says. Sessions go on, and one that ends
	// comes back with the new one.
	configure(t, testbed.Reader, "127.0.0.1", password, root("verify-full", ca.File))
	p := b.start("run")
	b.until(p, "status", "--readyz")
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (1, 'before')")
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "1"), `note="before"`)
	if err := os.WriteFile(password, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	pg.Exec(testbed.Superuser, "ALTER ROLE "+testbed.Reader+" PASSWORD 'another'",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+testbed.Reader+"'")
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (2, 'after')")
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "2"), `note="before"`, `note="after"`)
	if !strings.Contains(p.errs.String(), "connecting again") {
		t.Errorf("no session ended:\n%s", p.errs)
	}
	if code := b.stop(p); code != exitOK {
		t.Errorf("run ended with %d:\n%s", code, p.errs)
	}
}
