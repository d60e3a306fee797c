// The signaling server of the Go lab, emulated from the description of its
// behavior, its faults included: messages go through an unbuffered channel while
// the one lock is held, a second receiver with an id replaces the first, and a
// response that was silent for -idle is ended.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

type message struct {
	Type    string `json:"type"`
	Content string `json:"content"`
	To      string `json:"to"`
	From    string `json:"from"`
}

type server struct {
	mutex     sync.Mutex
	receivers map[string]chan message
	idle      time.Duration
}

func main() {
	port := flag.Int("port", 8080, "port to listen on; 0 picks one")
	host := flag.String("host", "127.0.0.1", "address to listen on")
	idle := flag.Duration("idle", 120*time.Second, "end a response that was silent for this long")
	flag.Parse()
	log.SetFlags(log.Lmicroseconds)

	s := &server{receivers: map[string]chan message{}, idle: *idle}
	http.HandleFunc("/send", s.send)
	http.HandleFunc("/receive", s.receive)
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", *host, *port))
	if err != nil {
		log.Fatal(err)
	}
	// Read by the tests to learn the port.
	fmt.Printf("{\"listening\":\"http://%s\"}\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}

func (s *server) send(w http.ResponseWriter, r *http.Request) {
	var m message
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	log.Printf("%s: %s -> %s (%d bytes)", m.Type, m.From, m.To, len(m.Content))
	s.mutex.Lock()
	defer s.mutex.Unlock()
	receiver, known := s.receivers[m.To]
	if !known {
		http.Error(w, "recipient not found", http.StatusNotFound)
		return
	}
	receiver <- m
}

func (s *server) receive(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if id == "" {
		http.Error(w, "missing client ID", http.StatusBadRequest)
		return
	}
	inbox := make(chan message)
	s.mutex.Lock()
	s.receivers[id] = inbox
	s.mutex.Unlock()
	defer func() {
		s.mutex.Lock()
		delete(s.receivers, id)
		s.mutex.Unlock()
		close(inbox)
	}()

	flusher, _ := w.(http.Flusher)
	written := false
	for {
		select {
		case m := <-inbox:
			if json.NewEncoder(w).Encode(m) != nil {
				return
			}
			flusher.Flush()
			written = true
		case <-time.After(s.idle):
			if !written {
				w.WriteHeader(http.StatusNoContent)
			}
			return
		case <-r.Context().Done():
			return
		}
	}
}
