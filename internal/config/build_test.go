package config

import (
	"reflect"
	"testing"
	"time"

	"walferry/decode"
	"walferry/schema"
)

func TestForPackages(t *testing.T) {
	c := mustLoad(t, minimal+`
  tls: {enabled: true, ca_file: ca.pem}
  sasl: {mechanism: scram-sha-512, user: u, password: p}
  topic: {cleanup_policy: compact+delete, config: {retention.ms: 5}}
schema:
  columns:
    public.orders.amount: {numeric: string}
    public.orders.note: {toast: placeholder}
    '"odd.schema"."t""x".c': {time: iso}
  keys: {public.orders: [a, b]}
  tables:
    public.orders: {on_incompatible: new-topic, toast: refetch}
    '"odd.schema"."t""x"': {on_incompatible: force}
    public.left: {on_incompatible: "", topic: elsewhere}
  changes_topic: shop.changes
`)
	s, err := c.ForSource()
	if err != nil || s.Slot != "walferry_shop" || s.Heartbeat != 10*time.Second || !s.CreateSlot {
		t.Errorf("%+v, %v", s, err)
	}
	k, err := c.ForKafka()
	if err != nil || k.SASL.Mechanism != "SCRAM-SHA-512" || k.SASL.Password != "p" || k.TLS == nil || k.TLS.CAFile != "ca.pem" {
		t.Errorf("%+v, %v", k, err)
	}
	if spec := c.TopicSpec("public", "naïve table"); spec.Name != "shop.public.na_ve_table" || spec.CleanupPolicy != "compact,delete" || spec.Partitions != 6 || spec.Configs["retention.ms"] != "5" {
		t.Errorf("%+v", spec)
	}
	if o := c.SchemaOptions("public", "orders", "db", "1", "v"); o.Columns["amount"].Numeric != "string" || o.Toast != "refetch" || o.Columns["note"].Toast != "placeholder" || len(o.Key) != 2 || o.Name != "shop" {
		t.Errorf("%+v", o)
	}
	if o := c.SchemaOptions("odd.schema", `t"x`, "db", "1", "v"); o.Columns["c"].Time != "iso" || o.Toast != "mark" || o.Key != nil {
		t.Errorf("%+v", o)
	}
	for table, want := range map[[2]string]string{{"public", "orders"}: "new-topic", {"odd.schema", `t"x`}: "force", {"public", "left"}: "stop", {"public", "others"}: "stop"} {
		if got := c.OnIncompatible(table[0], table[1]); got != want {
			t.Errorf("%v on_incompatible is %s, want %s", table, got, want)
		}
	}
	if spec := c.TopicSpec("public", "left"); spec.Name != "elsewhere" || spec.Partitions != 6 || !c.SharesTopic("public", "left") || c.SharesTopic("public", "orders") {
		t.Errorf("%+v", spec)
	}
	for topic, own := range map[string]bool{"_walferry.shop": true, "_schemas": true, "shop.changes": true, "elsewhere": false, "": false} {
		if got := c.OwnTopic(topic) != ""; got != own {
			t.Errorf("topic %q is walferry's own: %t", topic, got)
		}
	}
	if spec := c.ChangesSpec(); spec.Name != "shop.changes" || spec.Partitions != 1 || spec.CleanupPolicy != "delete" || spec.Configs["retention.ms"] != "-1" {
		t.Errorf("%+v", spec)
	}
	if c := c.ForSink(); c.TransactionalID != "walferry-shop" || c.PublishTimeout >= c.TransactionTimeout {
		t.Errorf("%+v", c)
	}
	for _, x := range []struct {
		listen, user string
		allow, want  bool
	}{
		{"127.0.0.1:1", "", false, true}, {"localhost:1", "", false, true}, {"[::1]:1", "", false, true},
		{":1", "", false, false}, {"0.0.0.0:1", "", false, false}, {"example.com:1", "", false, false},
		{"0.0.0.0:1", "", true, true}, {"127.0.0.1:1", "u", false, false},
	} {
		c.Registry = Registry{Listen: x.listen, AllowAnonymousWrites: x.allow, Auth: Auth{User: x.user}}
		if got, err := c.AnonymousWrites(); err != nil || got != x.want {
			t.Errorf("%+v: %v, %v", x, got, err)
		}
	}
}

// TestTypeOptions: each choice that the file has for values is one that package schema takes, and arrives there.
func TestTypeOptions(t *testing.T) {
	rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityNothing, Columns: []decode.Column{{Name: "c", Type: 25, Mod: -1}}}
	for _, f := range fields(reflect.TypeFor[Column]()) {
		for _, choice := range f.enum[1:] { // the first is the empty one
			c := mustLoad(t, minimal+"schema:\n  "+f.key+": "+choice+"\n  columns:\n    public.t.c: {"+f.key+": "+choice+"}\n  collisions: suffix\n")
			o := c.SchemaOptions("public", "t", "db", "1", "v")
			for what, got := range map[string]schema.ColumnOptions{"table": o.ColumnOptions, "column": o.Columns["c"]} {
				if v := reflect.ValueOf(got).Field(f.index).String(); v != choice {
					t.Errorf("%s: %s is %q, want %q", what, f.key, v, choice)
				}
			}
			if _, err := schema.Derive(rel, nil, "t", o); err != nil || o.Collisions != "suffix" {
				t.Errorf("%s: %s: %v", f.key, choice, err)
			}
		}
	}
}

func TestRegistryClient(t *testing.T) {
	c := mustLoad(t, minimal+"registry:\n  listen: 0.0.0.0:9\n")
	r, err := c.ForRegistryClient()
	if err != nil || r.URL != "http://127.0.0.1:9" {
		t.Errorf("%+v, %v", r, err)
	}
	c = mustLoad(t, minimal+"registry:\n  url: https://r.example.com\n  auth: {user: u, password: p}\n  tls: {enabled: true, ca_file: ca.pem}\n")
	r, err = c.ForRegistryClient()
	if err != nil || r.URL != "https://r.example.com" || r.User != "u" || r.Password != "p" || r.CAFile != "ca.pem" || c.Registry.Mode != "external" {
		t.Errorf("%+v, %v", r, err)
	}
	c = mustLoad(t, minimal+"registry:\n  listen: 0.0.0.0:9\n  auth: {token: x}\n  listen_tls: {cert_file: c.pem, key_file: k.pem}\n")
	r, err = c.ForRegistryClient()
	if err != nil || r.URL != "https://127.0.0.1:9" || r.CAFile != "c.pem" || r.Token != "x" {
		t.Errorf("%+v, %v", r, err)
	}
	for in, want := range map[string]string{
		"127.0.0.1:80": "127.0.0.1:80", ":80": "127.0.0.1:80", "0.0.0.0:80": "127.0.0.1:80", "[::]:80": "[::1]:80", "host:80": "host:80",
	} {
		if got := Dialable(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
