// The Pion peer of the interop tests and benches.
//
// Without -report it behaves as the client of the Go lab does towards its
// signaling server: the same flags and ids, one answer other than 200 ends it,
// /receive is read once and never reopened, no end-of-candidates, a greeting
// every 20 s, and an always empty TURN password.
// With -report it is a well-behaved peer that ends with one line of JSON.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/pion/webrtc/v3"
)

var started = time.Now()

type message struct {
	Type    string `json:"type"`
	Content string `json:"content"`
	To      string `json:"to"`
	From    string `json:"from"`
}

type candidate struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

type selected struct {
	Local  candidate `json:"local"`
	Remote candidate `json:"remote"`
}

// result is the last line on stdout of a run with -report.
type result struct {
	OK       bool      `json:"ok"`
	State    string    `json:"state"`
	Selected *selected `json:"selected"`
	Received string    `json:"received"`
	// Milliseconds from the start of main to the channel's open event.
	OpenMs float64 `json:"open_ms,omitempty"`
	// The same from the moment given in WHYRELAY_STARTED_NS, which includes the start of the process.
	SpawnToOpenMs float64 `json:"spawn_to_open_ms,omitempty"`
	Error         string  `json:"error,omitempty"`
}

type options struct {
	role, signal, id, peer string
	stun, turn, turnUser   string
	withTURN, relayOnly    bool
	report, loopback, echo bool
	timeout, hold          time.Duration
	throughput             time.Duration
	runs                   int
}

type peer struct {
	options
	connection *webrtc.PeerConnection
	client     http.Client

	mutex     sync.Mutex
	remoteSet bool
	pending   []webrtc.ICECandidateInit
	received  string
	opened    time.Time

	// What the answerer has received with -throughput.
	counted     int
	countedFrom time.Time

	// Held while candidates are sent, and over outbox and described.
	sending   sync.Mutex
	described bool
	outbox    []string

	gotMessage chan struct{}
	closed     chan struct{}
	failed     chan string
}

func main() {
	var o options
	flag.StringVar(&o.role, "role", "offerer", "offerer or answerer")
	flag.StringVar(&o.signal, "signaling-addr", "http://127.0.0.1:8080", "base URL of the signaling server")
	flag.BoolVar(&o.withTURN, "with-turn", true, "use the TURN servers of -turn")
	flag.StringVar(&o.id, "id", "", "own id (offer-peer-1 or answer-peer-1 by role)")
	flag.StringVar(&o.peer, "peer", "", "the other's id")
	flag.StringVar(&o.stun, "stun", "", "STUN URLs, separated by commas")
	flag.StringVar(&o.turn, "turn", "", "TURN URLs, separated by commas; the password is TURN_PASSWORD")
	flag.StringVar(&o.turnUser, "turn-user", "", "TURN user name")
	flag.BoolVar(&o.relayOnly, "relay-only", false, "offer relay candidates only")
	flag.BoolVar(&o.report, "report", false, "end after the first message, with a line of JSON")
	flag.BoolVar(&o.loopback, "loopback", false, "offer loopback candidates too")
	flag.BoolVar(&o.echo, "echo", false, "send back what the channel receives")
	timeout := flag.Float64("timeout", 30, "with -report: give up after this many seconds")
	hold := flag.Float64("hold", 0, "with -report: stay this many seconds after the first message")
	throughput := flag.Float64("throughput", 0, "with -report: the offerer sends messages of 16 KiB for this many seconds")
	flag.IntVar(&o.runs, "runs", 1, "with -report: run the peer this often, each in a process of its own")
	flag.Parse()
	o.timeout = time.Duration(*timeout * float64(time.Second))
	o.hold = time.Duration(*hold * float64(time.Second))
	o.throughput = time.Duration(*throughput * float64(time.Second))
	log.SetFlags(log.Lmicroseconds)

	own, other := "offer-peer-1", "answer-peer-1"
	if o.role == "answerer" {
		own, other = other, own
	} else if o.role != "offerer" {
		log.Fatalf("-role is offerer or answerer, not %q", o.role)
	}
	if o.id == "" {
		o.id = own
	}
	if o.peer == "" {
		o.peer = other
	}
	if o.runs > 1 {
		os.Exit(repeat(o.runs))
	}

	p := &peer{options: o, gotMessage: make(chan struct{}), closed: make(chan struct{}), failed: make(chan string, 16)}
	if err := p.start(); err != nil {
		p.finish("failed", err.Error())
	}
	if !o.report {
		log.Fatal(<-p.failed)
	}
	select {
	case <-p.gotMessage:
		time.Sleep(o.hold)
		p.finish("connected", "")
	case reason := <-p.failed:
		p.finish("failed", reason)
	case <-time.After(o.timeout):
		p.finish("failed", fmt.Sprintf("no message within %v", o.timeout))
	}
}

// repeat runs this program n times with -runs 1 and passes its lines on.
func repeat(n int) int {
	code := 0
	for i := 0; i < n; i++ {
		command := exec.Command(os.Args[0], append(os.Args[1:], "-runs", "1")...)
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		command.Env = append(os.Environ(), fmt.Sprintf("WHYRELAY_STARTED_NS=%d", time.Now().UnixNano()))
		if err := command.Run(); err != nil {
			code = 1
		}
	}
	return code
}

func (p *peer) start() error {
	var engine webrtc.SettingEngine
	engine.SetIncludeLoopbackCandidate(p.loopback)
	api := webrtc.NewAPI(webrtc.WithSettingEngine(engine))

	configuration := webrtc.Configuration{}
	if p.stun != "" {
		configuration.ICEServers = append(configuration.ICEServers, webrtc.ICEServer{URLs: strings.Split(p.stun, ",")})
	}
	if p.withTURN && p.turn != "" {
		password := ""
		if p.report {
			password = os.Getenv("TURN_PASSWORD")
		}
		configuration.ICEServers = append(configuration.ICEServers, webrtc.ICEServer{
			URLs: strings.Split(p.turn, ","), Username: p.turnUser, Credential: password,
		})
	}
	if p.relayOnly {
		configuration.ICETransportPolicy = webrtc.ICETransportPolicyRelay
	}
	connection, err := api.NewPeerConnection(configuration)
	if err != nil {
		return err
	}
	p.connection = connection
	connection.OnConnectionStateChange(func(state webrtc.PeerConnectionState) {
		log.Printf("connection: %s", state)
		if state == webrtc.PeerConnectionStateFailed && p.report {
			p.failed <- "the connection failed"
		}
	})
	connection.OnICECandidate(func(c *webrtc.ICECandidate) {
		if c != nil {
			p.sendCandidate(c.ToJSON().Candidate)
		}
	})

	if p.role == "answerer" {
		connection.OnDataChannel(p.useChannel)
		go p.receive()
		return nil
	}
	go p.receive()
	if !p.report {
		// Else the answer may come before the server knows us as a receiver, and the lab's
		// answerer ends at the 404 it gets. With -report the answerer tries again.
		time.Sleep(200 * time.Millisecond)
	}
	channel, err := connection.CreateDataChannel("testChannel", nil)
	if err != nil {
		return err
	}
	p.useChannel(channel)
	offer, err := connection.CreateOffer(nil)
	if err != nil {
		return err
	}
	return p.describe("offer", offer)
}

// describe sends our description, and then the candidates gathered meanwhile: none may overtake it.
func (p *peer) describe(kind string, description webrtc.SessionDescription) error {
	if err := p.connection.SetLocalDescription(description); err != nil {
		return err
	}
	p.send(kind, description.SDP)
	p.sending.Lock()
	defer p.sending.Unlock()
	for _, c := range p.outbox {
		p.send("candidate", c)
	}
	p.outbox, p.described = nil, true
	return nil
}

func (p *peer) sendCandidate(c string) {
	p.sending.Lock()
	defer p.sending.Unlock()
	if p.described {
		p.send("candidate", c)
	} else {
		p.outbox = append(p.outbox, c)
	}
}

func (p *peer) useChannel(channel *webrtc.DataChannel) {
	greeting := "greeting from " + p.id
	channel.OnOpen(func() {
		p.mutex.Lock()
		if p.opened.IsZero() {
			p.opened = time.Now()
		}
		p.mutex.Unlock()
		log.Printf("channel %q is open", channel.Label())
		for {
			if err := channel.SendText(greeting); err != nil {
				log.Printf("greeting: %v", err)
				return
			}
			if p.role == "answerer" {
				return
			}
			if p.throughput > 0 {
				p.load(channel)
				return
			}
			time.Sleep(20 * time.Second)
		}
	})
	var closeOnce sync.Once
	channel.OnClose(func() { closeOnce.Do(func() { close(p.closed) }) })
	var once sync.Once
	channel.OnMessage(func(m webrtc.DataChannelMessage) {
		if p.throughput > 0 && !p.count(channel, m) {
			return
		}
		if len(m.Data) < 200 {
			log.Printf("received %q", m.Data)
		}
		if p.echo {
			var err error
			if m.IsString {
				err = channel.SendText(string(m.Data))
			} else {
				err = channel.Send(m.Data)
			}
			if err != nil {
				log.Printf("echo: %v", err)
			}
		}
		once.Do(func() {
			p.mutex.Lock()
			p.received = string(m.Data)
			// The open event runs beside this one and may come second.
			if p.opened.IsZero() {
				p.opened = time.Now()
			}
			p.mutex.Unlock()
			close(p.gotMessage)
		})
	})
}

// load sends reliable messages of 16 KiB for the time of -throughput, with 1 MiB ahead, and then a text message
// that asks for the other's count.
func (p *peer) load(channel *webrtc.DataChannel) {
	const ahead = 1 << 20
	room := make(chan struct{}, 1)
	channel.SetBufferedAmountLowThreshold(ahead / 2)
	channel.OnBufferedAmountLow(func() {
		select {
		case room <- struct{}{}:
		default:
		}
	})
	payload := make([]byte, 16*1024)
	for start := time.Now(); time.Since(start) < p.throughput; {
		if channel.BufferedAmount() > ahead {
			<-room
			continue
		}
		if err := channel.Send(payload); err != nil {
			p.failed <- "send: " + err.Error()
			return
		}
	}
	if err := channel.SendText("count"); err != nil {
		p.failed <- "send: " + err.Error()
	}
}

// count adds up what the answerer receives and tells it when asked; the offerer logs what it is told.
// It answers whether the message is the one that the session may end with.
func (p *peer) count(channel *webrtc.DataChannel, m webrtc.DataChannelMessage) bool {
	if p.role == "offerer" {
		if m.IsString && strings.HasSuffix(string(m.Data), "Mbit/s") {
			log.Printf("throughput to the other side: %s", m.Data)
			return true
		}
		return false
	}
	if !m.IsString {
		if p.countedFrom.IsZero() {
			p.countedFrom = time.Now()
		}
		p.counted += len(m.Data)
		return false
	}
	if string(m.Data) != "count" {
		return false
	}
	rate := float64(p.counted) * 8 / time.Since(p.countedFrom).Seconds() / 1e6
	if err := channel.SendText(fmt.Sprintf("%.1f Mbit/s", rate)); err != nil {
		log.Printf("count: %v", err)
	}
	return true
}

func (p *peer) send(kind, content string) {
	body, _ := json.Marshal(message{Type: kind, Content: content, To: p.peer, From: p.id})
	for {
		response, err := p.client.Post(p.signal+"/send", "application/json", bytes.NewReader(body))
		if err != nil {
			p.failed <- "send: " + err.Error()
			return
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return
		}
		reason := fmt.Sprintf("send %s: %s: %s", kind, response.Status, bytes.TrimSpace(text))
		// The lab's client ends here; a peer that reports waits for the other to appear.
		if !p.report {
			log.Fatal(reason)
		}
		if response.StatusCode != http.StatusNotFound || time.Since(started) > p.timeout {
			p.failed <- reason
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *peer) receive() {
	for {
		response, err := p.client.Get(p.signal + "/receive?id=" + url.QueryEscape(p.id))
		if err != nil {
			p.failed <- "receive: " + err.Error()
			return
		}
		decoder := json.NewDecoder(response.Body)
		for {
			var m message
			if err = decoder.Decode(&m); err != nil {
				break
			}
			p.handle(m)
		}
		response.Body.Close()
		if !p.report {
			log.Printf("receive ended: %v", err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (p *peer) handle(m message) {
	switch m.Type {
	case "offer", "answer":
		log.Printf("%s from %s", m.Type, m.From)
		if (m.Type == "offer") != (p.role == "answerer") {
			return
		}
		description := webrtc.SessionDescription{Type: webrtc.NewSDPType(m.Type), SDP: m.Content}
		if err := p.connection.SetRemoteDescription(description); err != nil {
			p.failed <- m.Type + ": " + err.Error()
			return
		}
		p.remoteSet = true
		// The lab's offerer empties this list before it can hold anything, and never again.
		if p.report || p.role == "answerer" {
			for _, c := range p.pending {
				p.addCandidate(c)
			}
		}
		p.pending = nil
		if m.Type == "answer" {
			return
		}
		answer, err := p.connection.CreateAnswer(nil)
		if err != nil {
			p.failed <- "create answer: " + err.Error()
			return
		}
		if err := p.describe("answer", answer); err != nil {
			p.failed <- "set answer: " + err.Error()
		}
	case "candidate":
		log.Printf("candidate: %s", m.Content)
		c := webrtc.ICECandidateInit{Candidate: m.Content}
		if p.remoteSet {
			p.addCandidate(c)
		} else {
			p.pending = append(p.pending, c)
		}
	}
}

func (p *peer) addCandidate(c webrtc.ICECandidateInit) {
	if err := p.connection.AddICECandidate(c); err != nil {
		log.Printf("candidate refused: %v", err)
	}
}

func (p *peer) selectedPair() *selected {
	transport := p.connection.SCTP().Transport().ICETransport()
	pair, err := transport.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return nil
	}
	describe := func(c *webrtc.ICECandidate) candidate {
		return candidate{c.Typ.String(), fmt.Sprintf("%s:%d", c.Address, c.Port)}
	}
	return &selected{describe(pair.Local), describe(pair.Remote)}
}

// finish prints the result and ends the process.
func (p *peer) finish(state, reason string) {
	p.mutex.Lock()
	r := result{OK: reason == "", State: state, Received: p.received, Error: reason}
	if !p.opened.IsZero() {
		r.OpenMs = float64(p.opened.Sub(started).Microseconds()) / 1000
		var ns int64
		if _, err := fmt.Sscan(os.Getenv("WHYRELAY_STARTED_NS"), &ns); err == nil {
			r.SpawnToOpenMs = float64(p.opened.UnixNano()-ns) / 1e6
		}
	}
	p.mutex.Unlock()
	if p.connection != nil {
		r.Selected = p.selectedPair()
	}
	if reason != "" {
		log.Print(reason)
	}
	line, _ := json.Marshal(r)
	fmt.Println(string(line))
	if !r.OK {
		os.Exit(1)
	}
	// A browser may drop a message that is followed at once by a close: stay until the other
	// has closed, or long enough for it to have read our greeting.
	select {
	case <-p.closed:
	case <-time.After(2 * time.Second):
	}
	p.connection.Close()
	os.Exit(0)
}
