// Drives a registry with @kafkajs/confluent-schema-registry. Arguments: the folder of node_modules; the registry's URL;
// "user:password", "Bearer token" or ""; the files of its authority, of a client certificate and of its key, or "". Ends with exit code 0 and "ok"
// when everything is as it has to be.
'use strict';

const assert = require('assert').strict;
const fs = require('fs');
const https = require('https');
const [modules, host, login, ca, cert, key] = process.argv.slice(2);
const {SchemaRegistry, SchemaType, COMPATIBILITY} = require(modules + '/@kafkajs/confluent-schema-registry');

const bearer = login.startsWith('Bearer ');
const at = bearer ? -1 : login.indexOf(':');
const auth = at < 0 ? undefined : {username: login.slice(0, at), password: login.slice(at + 1)};
const agent = ca ? new https.Agent({ca: fs.readFileSync(ca), cert: fs.readFileSync(cert), key: fs.readFileSync(key)}) : undefined;
// The client knows passwords only; it takes what writes another header.
const authorize = () => ({prepareRequest: next => next().then(r => r.enhance({headers: {Authorization: login}}))});
// What one client has registered it does not ask for again, so readers are others.
const client = options => new SchemaRegistry({host, auth, agent, middlewares: bearer ? [authorize] : [], retry: {retries: 0}}, options);

const order = fields => JSON.stringify({type: 'record', name: 'Order', namespace: 'shop', fields});
const id = {name: 'id', type: 'long'};
const V1 = order([id]);
const V2 = order([id, {name: 'note', type: ['null', 'string'], default: null}]);
const BAD = order([{name: 'id', type: 'string'}]);
const avro = schema => ({type: SchemaType.AVRO, schema});

async function refused(status, message, call) {
  await assert.rejects(call, e => {
    assert.equal(e.status, status, `${e.name} ${e.message}`);
    assert.match(e.message, message);
    return true;
  });
}

async function avroSchemas() {
  const registry = client();
  // The client asks for the subject's level, registers, and sets the level of a subject that had none: four requests.
  const subject = 'orders/1 é-value';
  const first = (await registry.register(avro(V1), {subject})).id;
  assert.equal((await registry.register(avro(V1), {subject})).id, first);
  const message = await client().encode(first, {id: 7});
  assert.equal(message.toString('hex'), '00' + first.toString(16).padStart(8, '0') + '0e');
  assert.equal((await client().decode(message)).id, 7);

  const second = (await registry.register(avro(V2), {subject})).id;
  assert.notEqual(second, first);
  assert.equal(await client().getLatestSchemaId(subject), second);
  assert.equal(await client().getRegistryId(subject, 1), first);
  assert.equal(await client().getRegistryId(subject, 'latest'), second);
  assert.equal(await client().getRegistryIdBySchema(subject, avro(V1)), first);
  assert.equal(JSON.stringify(await client().getSchema(first)), JSON.stringify({name: 'shop.Order', type: 'record', fields: [id]}));
  // An old message in the eyes of a new reader.
  const read = await client().decode(message, {[SchemaType.AVRO]: {readerSchema: JSON.parse(V2)}});
  assert.deepEqual({...read}, {id: 7, note: null});
  assert.deepEqual({...await client().decode(await client().encode(second, {id: 8, note: 'x'}))}, {id: 8, note: 'x'});
  await assert.rejects(client().encode(second, {id: 'x'}), {name: 'ConfluentSchemaRegistryValidationError'});

  // A subject that the client names by the schema: namespace and name.
  const named = (await registry.register(JSON.parse(V1))).id;
  assert.equal(named, first);
  assert.equal(await client().getLatestSchemaId('shop.Order'), first);

  // What does not fit, what is no schema, what is not there.
  await refused(409, /'id'/, () => client().register(avro(BAD), {subject}));
  await assert.rejects(client().register(avro(V2), {subject, compatibility: COMPATIBILITY.FULL}),
    {name: 'ConfluentSchemaRegistryCompatibilityError', message: /FULL != BACKWARD/});
  // Not through register, which looks at the schema before the registry does.
  await refused(422, /Invalid schema/, () => client().api.Subject.register({subject: 'none', body: {schema: order([{name: 'a', type: 'nonsense'}])}}));
  await refused(404, /not found/, () => client().getLatestSchemaId('nobody'));
  await refused(404, /Version 9 not found/, () => client().getRegistryId(subject, 9));
  await refused(404, /Schema 4711 not found/, () => client().decode(Buffer.from('000000126700', 'hex')));
  await assert.rejects(client().getRegistryIdBySchema(subject, avro(BAD)), {name: 'ConfluentSchemaRegistryError', message: /Schema not found/});

  // The level that the client gives a new subject, or leaves alone.
  await registry.register(avro(V1), {subject: 'free', compatibility: COMPATIBILITY.NONE});
  assert.notEqual((await registry.register(avro(BAD), {subject: 'free', compatibility: COMPATIBILITY.NONE})).id, first);
  await registry.register(avro(V1), {subject: 'left', updateConfig: false});
  await refused(404, /compatibility/, () => client().api.Subject.config({subject: 'left'}));

  // A reference.
  await registry.register(avro(JSON.stringify({type: 'record', name: 'Money', namespace: 'shop', fields: [{name: 'cents', type: 'long'}]})), {subject: 'money'});
  const price = JSON.stringify({type: 'record', name: 'Price', namespace: 'shop', fields: [{name: 'net', type: 'shop.Money'}]});
  const references = [{name: 'shop.Money', subject: 'money', version: 1}];
  const priced = (await registry.register({...avro(price), references}, {subject: 'price'})).id;
  assert.equal((await client().decode(await client().encode(priced, {net: {cents: 5}}))).net.cents, 5);
}

async function jsonSchemas() {
  const person = {$id: 'https://shop.example/person', type: 'object', properties: {age: {type: 'integer'}}, required: ['age']};
  const people = {$id: 'https://shop.example/people', type: 'array', items: {$ref: 'https://shop.example/person'}};
  const json = (schema, references) => ({type: SchemaType.JSON, schema: JSON.stringify(schema), references});
  const first = (await client().register(json(person), {subject: 'person'})).id;
  assert.equal(await client().getRegistryIdBySchema('person', json(person)), first);
  const message = await client().encode(first, {age: 7});
  assert.deepEqual(await client().decode(message), {age: 7});
  await assert.rejects(client().encode(first, {age: 'x'}), {name: 'ConfluentSchemaRegistryValidationError'});
  const references = [{name: 'https://shop.example/person', subject: 'person', version: 1}];
  const all = (await client().register(json(people, references), {subject: 'people'})).id;
  assert.deepEqual(await client().decode(await client().encode(all, [{age: 1}])), [{age: 1}]);
  await assert.rejects(client().encode(all, [{}]), {name: 'ConfluentSchemaRegistryValidationError'});
}

async function protobufSchemas() {
  const proto = (schema, references) => ({type: SchemaType.PROTOBUF, schema, references});
  const money = 'syntax = "proto3";\npackage shop;\nmessage Money {\n  int64 cents = 1;\n}\n';
  const price = 'syntax = "proto3";\npackage shop;\nimport "money.proto";\nmessage Price {\n  Money net = 1;\n  string note = 2;\n}\n';
  const first = (await client().register(proto(money), {subject: 'money-proto'})).id;
  assert.equal(Number((await client().decode(await client().encode(first, {cents: 5}))).cents), 5);
  const references = [{name: 'money.proto', subject: 'money-proto', version: 1}];
  const options = {[SchemaType.PROTOBUF]: {messageName: 'Price'}};
  const id = (await client(options).register(proto(price, references), {subject: 'price-proto'})).id;
  const row = await client(options).decode(await client(options).encode(id, {net: {cents: 5}, note: 'x'}));
  assert.equal(Number(row.net.cents), 5);
  assert.equal(row.note, 'x');
  assert.equal(await client().getLatestSchemaId('price-proto'), id);
}

(async () => {
  if (auth) {
    const stranger = new SchemaRegistry({host, auth: {username: auth.username, password: 'wrong'}, retry: {retries: 0}});
    await refused(401, /./, () => stranger.getLatestSchemaId('orders'));
  }
  await avroSchemas();
  await jsonSchemas();
  await protobufSchemas();
  console.log('ok');
})().catch(e => {
  console.error(e);
  process.exit(1);
});
